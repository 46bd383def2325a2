"""The recipe's own mathematics against naive versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from milvus_coop.offline.training.efficientnet_lite import EfficientNetLite
from recipes.coop_small.backbone import LowerHalf, UpperHalf
from recipes.coop_small.cross_encoder import EMBEDDING, TOKENS, CrossEncoder, image_tokens
from recipes.coop_small.hubs import EXTRA, LENGTH_SQUARED, SHARE, Hubs
from recipes.coop_small.pipeline import reliability_table
from recipes.coop_small.towers import CELLS, WORD_DIM, ReadTexts, SeenImages, word_match
from recipes.coop_small.train import contrast
from recipes.coop_small.train_cross import error_of_mean, softmax_over_positives


def unit(*shape: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape), dim=-1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_two_halves_are_the_backbone() -> None:
    backbone = EfficientNetLite("lite0").eval()
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        expected = backbone(pixels)
        found = UpperHalf(backbone)(LowerHalf(backbone)(pixels))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_upper_half_has_the_gradients_of_the_plain_module() -> None:
    backbone = EfficientNetLite("lite0").eval()
    upper = UpperHalf(backbone)
    maps = torch.randn(2, 80, 14, 14)
    weight = backbone.blocks[9].get_parameter("expand.weight")

    def gradients(grid: torch.Tensor) -> torch.Tensor:
        weight.grad = None
        torch.autograd.backward(grid.square().mean())
        assert weight.grad is not None
        return weight.grad.clone()

    plain = maps
    for block in backbone.blocks[8:]:
        plain = block(plain)
    torch.testing.assert_close(gradients(upper(maps)), gradients(functional.relu6(backbone.head(plain))), atol=1e-5, rtol=1e-3)


def test_hub_dimensions_subtract_half_of_both_hub_values() -> None:
    vectors, texts = unit(5, 16), unit(7, 16)
    image_hubs, text_hubs = Hubs(unit(20, 16), 3, images=True), Hubs(unit(30, 16), 2, images=False)
    images, queries = image_hubs(vectors), text_hubs(texts)
    assert images.shape == (5, 16 + EXTRA)
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(queries.norm(dim=-1), torch.ones(7))
    for i, text in enumerate(texts):
        for j, image in enumerate(vectors):
            of_image = (image_hubs.bank @ image).sort(descending=True).values[:3].mean()
            of_text = (text_hubs.bank @ text).sort(descending=True).values[:2].mean()
            expected = (text @ image - SHARE * of_image - SHARE * of_text) / LENGTH_SQUARED
            torch.testing.assert_close(queries[i] @ images[j], expected, atol=1e-6, rtol=1e-5)


def test_word_match_looks_for_the_best_cell_of_each_word() -> None:
    words, cells = unit(3, 4, 8), unit(2, 5, 8)
    weights = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.2, 0.3, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]])
    found = word_match(ReadTexts(unit(3, 2, 8), words, weights), SeenImages(unit(2, 2, 8), cells, torch.zeros(2, 1)))
    for i in range(3):
        for j in range(2):
            expected = sum(weights[i, w] * max(words[i, w] @ cell for cell in cells[j]) for w in range(4))
            torch.testing.assert_close(found[i, j], torch.as_tensor(expected))


def test_contrast_compares_a_text_with_those_of_other_images_alone() -> None:
    scores, owner = torch.randn(4, 3), torch.tensor([0, 0, 1, 2])
    ignored = torch.zeros(4, 3, dtype=torch.bool)
    ignored[3, 1] = True
    to_image, to_text = [], []
    for text in range(4):
        own = int(owner[text])
        rivals = [scores[text, image].exp() for image in range(3) if not ignored[text, image]]
        to_image.append(-(scores[text, own].exp() / torch.stack(rivals).sum()).log())
        others = [scores[t, own].exp() for t in range(4) if int(owner[t]) != own and not ignored[t, own]]
        to_text.append(-(scores[text, own].exp() / (scores[text, own].exp() + torch.stack(others).sum())).log())
    expected = (torch.stack(to_image).mean() + torch.stack(to_text).mean()) / 2
    torch.testing.assert_close(contrast(scores, owner, ignored), expected)


def test_a_new_cross_encoder_follows_the_cosine_and_ignores_padding() -> None:
    model = CrossEncoder().eval().requires_grad_(False)
    embedding, text = unit(6, EMBEDDING + EXTRA), unit(1, EMBEDDING + EXTRA).expand(6, -1)
    rows = image_tokens(embedding, unit(6, CELLS, WORD_DIM))
    words = unit(1, 5, WORD_DIM).expand(6, -1, -1) * 0.2
    assert rows.shape == (6, TOKENS, WORD_DIM)
    logits = model.logits(text, words, torch.ones(6, 5), rows)
    torch.testing.assert_close(logits.mean(0), model.scale * (text * embedding).sum(-1))
    for member in model.members:  # now with networks that say something
        torch.nn.init.normal_(member.get_submodule("pair.3").get_parameter("weight"))
    bare = model.logits(text, words, torch.ones(6, 5), rows)
    padded = torch.cat([words, unit(6, 3, WORD_DIM)], 1)
    present = torch.tensor([[1.0] * 5 + [0.0] * 3]).expand(6, -1)
    torch.testing.assert_close(model.logits(text, padded, present, rows), bare)


def test_softmax_over_positives_is_the_naive_sum() -> None:
    torch.manual_seed(0)
    logits, positive = torch.randn(5, 7), torch.rand(5, 7) < 0.4
    positive[2] = False
    rows = []
    for row, right in zip(logits.tolist(), positive.tolist(), strict=True):
        if any(right):
            share = sum(math.exp(x) for x, r in zip(row, right, strict=True) if r) / sum(math.exp(x) for x in row)
            rows.append(-math.log(share))
    assert softmax_over_positives(logits, positive).item() == pytest.approx(sum(rows) / len(rows), rel=1e-5)


def test_reliability_table_counts_every_pair_once() -> None:
    probability = np.array([0.0, 0.05, 0.3, 0.99, 1.0])
    target = np.array([False, False, True, True, True])
    rows = reliability_table(probability, target, np.array([0.0, 0.1, 0.5, 1.0]))
    assert [row[2] for row in rows] == [2, 1, 2]
    assert [row[4] for row in rows] == [0.0, 1.0, 1.0]


def test_the_error_of_a_mean_is_that_of_its_groups() -> None:
    values = torch.rand(40, generator=torch.Generator().manual_seed(1))
    usual = float(values.std()) / 40**0.5
    assert error_of_mean(values, torch.arange(40)) == pytest.approx(usual, rel=1e-5)
    assert error_of_mean(values.repeat(5), torch.arange(40).repeat(5)) == pytest.approx(usual, rel=1e-5)
