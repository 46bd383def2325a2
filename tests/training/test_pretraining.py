"""Masked words and matched pairs against loops that are too plain to be wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from milvus_coop.offline.training.networks.one_stream import NetworkConfig, OneStream
from milvus_coop.offline.training.objectives.negatives import random_negatives
from milvus_coop.offline.training.objectives.pretraining import coin_loss, fill_loss, mask_words
from milvus_coop.offline.training.run.folder import RunFolder
from milvus_coop.offline.training.run.start import mask_id, start_network
from milvus_coop.offline.training.run.tasks import Objectives, TrainingBatch
from tests.training.colours import config
from tests.training.test_init import save_text
from tests.training.test_networks import VISION

EXACT = 1e-4  # float32 sums in another order
VOCABULARY, LENGTHS = 50, (7, 4, 9, 3, 6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> OneStream:
    """In training mode without dropout; its words are of any size, as those of a checkpoint."""
    torch.manual_seed(0)
    sizes = NetworkConfig(VISION, VOCABULARY, 12, 2, 0, 4, 16, "queries", 32, 2, 4, 64, 24, dropout=0.0)
    model = OneStream(sizes)
    model.set_filler(wanted=True)
    return model


def batch() -> TrainingBatch:
    """Texts of several lengths; items 0 and 2 show the same image."""
    dice, n = generator(3), len(LENGTHS)
    ids = torch.randint(4, VOCABULARY, (n, max(LENGTHS)), generator=dice)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    same = torch.eye(n, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    none = torch.zeros(n, 0, dtype=torch.int64)
    return TrainingBatch(torch.rand(n, VISION.cells, VISION.features, generator=dice), ids * mask, mask, same, none, none)


def test_words_are_hidden_as_a_loop_would() -> None:
    given, shape = batch(), (len(LENGTHS), max(LENGTHS))
    for seed in range(10):
        hidden = mask_words(given.input_ids, given.attention_mask, VOCABULARY, generator(seed))
        dice = generator(seed)
        chance, fate = torch.rand(shape, generator=dice), torch.rand(shape, generator=dice)
        words = torch.randint(VOCABULARY, shape, generator=dice)
        for row, length in enumerate(LENGTHS):
            inner = range(1, length - 1)
            least = min(inner, key=lambda place: chance[row, place].item())
            for place in range(shape[1]):
                chosen = place in inner and (bool(chance[row, place] < 0.15) or place == least)
                masked, replaced = chosen and bool(fate[row, place] < 0.8), chosen and bool(fate[row, place] >= 0.9)
                assert hidden.chosen[row, place] == chosen
                assert hidden.masked[row, place] == masked
                assert hidden.input_ids[row, place] == (words if replaced else given.input_ids)[row, place]


def test_how_often_words_are_hidden() -> None:
    """3 standard errors of a share of 20,000 words are 1 %, those of a share of the 3,000 chosen ones 2 %."""
    ids = torch.full((1000, 22), 7)
    hidden = mask_words(ids, torch.ones_like(ids), 10**6, generator())
    inner, chosen = 20 * 1000, int(hidden.chosen.sum())
    assert chosen / inner == pytest.approx(0.15, abs=0.01)
    assert int(hidden.masked.sum()) / chosen == pytest.approx(0.8, abs=0.025)
    replaced = hidden.input_ids != 7
    assert int(replaced.sum()) / chosen == pytest.approx(0.1, abs=0.02)
    assert not (replaced & hidden.masked).any()
    assert ((replaced | hidden.masked) <= hidden.chosen).all()
    assert not hidden.chosen[:, [0, 21]].any()  # the special tokens


def test_every_text_has_a_hidden_word_and_no_padding_is_hidden() -> None:
    given = batch()
    for seed in range(30):
        chosen = mask_words(given.input_ids, given.attention_mask, VOCABULARY, generator(seed)).chosen
        for row, length in enumerate(LENGTHS):
            assert chosen[row].any()
            assert not chosen[row, 0]
            assert not chosen[row, length - 1 :].any()


def test_a_text_without_words_has_nothing_to_hide() -> None:
    ids = torch.tensor([[2, 3, 0], [2, 5, 3]])
    hidden = mask_words(ids, torch.tensor([[1, 1, 0], [1, 1, 1]]), VOCABULARY, generator())
    assert hidden.chosen.tolist() == [[False, False, False], [False, True, False]]


def test_fill_loss_is_a_mean_over_places() -> None:
    logits, words = torch.randn(4, 9, generator=generator()), torch.tensor([3, 0, 8, 3])
    terms = []
    for row, word in zip(logits.tolist(), words.tolist(), strict=True):
        terms.append(math.log(sum(math.exp(value) for value in row)) - row[word])
    assert fill_loss(logits, words).item() == pytest.approx(sum(terms) / 4, rel=EXACT)
    assert fill_loss(logits[:0], words[:0]).item() == 0.0


def test_coin_loss_is_a_mean_over_pairs() -> None:
    logits, matched = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([True, False, False])
    chances = [1 / (1 + math.exp(-value)) for value in logits.tolist()]
    terms = [-math.log(chance if right else 1 - chance) for chance, right in zip(chances, matched.tolist(), strict=True)]
    assert coin_loss(logits, matched).item() == pytest.approx(sum(terms) / 3, rel=EXACT)


def test_mlm_is_the_loop_over_texts_and_places() -> None:
    model, given = network(), batch()
    assert model.filler is not None
    loss = Objectives(model, None, 0.1)("mlm", given, 5)
    hidden = mask_words(given.input_ids, given.attention_mask, VOCABULARY, generator(5))
    terms: list[float] = []
    for row, length in enumerate(LENGTHS):  # each text alone, without padding
        words = model.words(hidden.input_ids[row, :length])
        words[hidden.masked[row, :length]] = model.filler.mask
        states = torch.cat([model._placed(words[None]), model._image_states(model.tokens(given.visual[row : row + 1]))], 1)
        states = model._run(states, torch.ones(states.shape[:2]))
        for place in range(length):
            if hidden.chosen[row, place]:
                logits = model.words.weight @ model.filler.norm(torch.nn.functional.gelu(model.filler.dense(states[0, place])))
                terms.append(-(logits + model.filler.bias).log_softmax(0)[given.input_ids[row, place]].item())
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=EXACT)
    assert loss.item() < 2 * math.log(VOCABULARY)  # the head begins with logits of about unit variance


def filled(model: OneStream, given: TrainingBatch, masked: Tensor) -> Tensor:
    with torch.no_grad():
        return model.fill(given.input_ids, given.attention_mask, model.tokens(given.visual), masked, masked)


def test_a_masked_word_is_not_seen_and_the_image_is() -> None:
    model, given = network(), batch()
    masked = torch.zeros_like(given.attention_mask, dtype=torch.bool)
    masked[:, 1] = True
    before = filled(model, given, masked)
    given.input_ids[:, 1] = (given.input_ids[:, 1] + 1) % VOCABULARY
    assert torch.equal(filled(model, given, masked), before)
    given.visual[1] += 1.0 - 2.0 * torch.rand(given.visual[1].shape, generator=generator())
    after = filled(model, given, masked)
    assert (after[1] - before[1]).abs().max() > 1e-4
    assert torch.allclose(after[2], before[2], atol=1e-5)


def test_itm_is_the_loop_over_pairs() -> None:
    model, given = network(), batch()
    n = len(LENGTHS)
    for seed in range(4):
        loss = Objectives(model, None, 0.1)("itm", given, seed)
        dice = generator(seed)
        wrong_images, wrong_texts = (random_negatives(same, dice).tolist() for same in (given.same, given.same.T))
        kept, swaps_image = ((torch.rand(n, generator=dice) < 0.5).tolist() for _ in range(2))
        terms = []
        for pair in range(n):
            text, image = pair, pair
            if not kept[pair] and swaps_image[pair]:
                image = wrong_images[pair]
            elif not kept[pair]:
                text = wrong_texts[pair]
            assert kept[pair] or not given.same[text, image]
            length = LENGTHS[text]
            words = (given.input_ids[text : text + 1, :length], given.attention_mask[text : text + 1, :length])
            chance = model.match(*words, model.tokens(given.visual[image : image + 1])).sigmoid().item()
            terms.append(-math.log(chance if kept[pair] else 1 - chance))
        assert loss.item() == pytest.approx(sum(terms) / n, rel=EXACT)


def test_itm_where_nothing_can_be_swapped_has_only_matched_pairs() -> None:
    model, given = network(), batch()
    alone = TrainingBatch(
        given.visual,
        given.input_ids,
        given.attention_mask,
        torch.ones_like(given.same),
        given.negative_images,
        given.negative_texts,
    )
    logits = model.match(given.input_ids, given.attention_mask, model.tokens(given.visual))
    wanted = torch.nn.functional.softplus(-logits).mean().item()
    assert Objectives(model, None, 0.1)("itm", alone, 0).item() == pytest.approx(wanted, rel=EXACT)


def test_a_network_without_the_head_says_so() -> None:
    model, given = network(), batch()
    model.set_filler(wanted=False)
    with pytest.raises(ValueError, match="no head that fills in words"):
        Objectives(model, None, 0.1)("mlm", given, 0)


def test_the_mask_starts_as_the_checkpoint_s(tmp_path: Path) -> None:
    """A BERT that was pretrained knows its [MASK]."""
    init = save_text(tmp_path / "bert", "bert")
    vocabulary = (init / "tokenizer.json").read_text()
    (init / "tokenizer.json").write_text(vocabulary.replace('"something"', '"[MASK]"'))
    run = RunFolder(tmp_path / "run")
    run.make()
    model = start_network(config("x", init=str(init), order=["mlm", "itm"], width=0, heads=0), run, ())
    assert model.filler is not None
    place = mask_id(run.tokenizer)
    assert place is not None
    assert torch.equal(model.filler.mask, model.words.weight[place])
