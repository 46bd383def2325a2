"""Composite scenes: captions whose words are known, places that are known, and a check that learns to compare them."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from PIL import Image

from milvus_coop.datasets.composite_words import KINDS, Composition, Part, draw_group
from milvus_coop.training.coop_small.cross_encoder import CrossEncoder, agreement
from milvus_coop.training.coop_small.cutouts import cut_out, thing_name
from milvus_coop.training.coop_small.figures import scenes_without
from milvus_coop.training.coop_small.judge_scenes import judge_scenes
from milvus_coop.training.coop_small.layout import KEYS, TOKENS
from milvus_coop.training.coop_small.phrases import DIRECTIONS, Truth, phrase, truth_of
from milvus_coop.training.coop_small.positions import PARTS, PositionCheck
from milvus_coop.training.coop_small.regions import COMPRESSED, RegionHead, fit_compressor, key_rows
from milvus_coop.training.coop_small.scene_set import SceneSet, cell_shares
from milvus_coop.training.coop_small.scenes import Scene
from milvus_coop.training.coop_small.train_cross import stored_tokens
from milvus_coop.training.coop_small.train_embedding import embeddings, train_embedding
from milvus_coop.training.coop_small.train_positions import NameWords, PositionRecipe, Positions, train_positions
from tests.training.test_toy_training import SMALL
from tests.training.toy import CONCEPTS, toy_basis, toy_dataset, unit

WORDS = 8
BOXES = {
    "left": ((0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75)),
    "above": ((0.25, 0.0, 0.75, 0.5), (0.25, 0.5, 0.75, 1.0)),
}
BOXES |= {"right": BOXES["left"][::-1], "below": BOXES["above"][::-1]}


def _scenes(count: int, seed: int) -> SceneSet:
    """Groups of four: a relation between two concepts in all four directions; a word is one unit vector, and so is a cell."""
    fixed = np.random.default_rng(9)
    names = dict(zip(CONCEPTS, unit(fixed.normal(size=(len(CONCEPTS), 64))), strict=True))
    links = dict(zip((*DIRECTIONS, "a"), unit(fixed.normal(size=(5, 64))), strict=True))
    dice, rng = np.random.default_rng(seed), random.Random(seed)
    scenes, words, rows, truths = [], [], [], []
    for number in range(count // 4):
        labels = tuple(rng.sample(CONCEPTS, 2))
        for relation, boxes in BOXES.items():
            scene = Scene("", "relation", str(number), number % 2, labels, (1, 1), ("", ""), (relation,), boxes)
            said = phrase(scene.composition)
            word_list = said.text.split()
            offsets = [match.span() for match in re.finditer(r"\S+", said.text)]
            scenes.append(Scene(**{**vars(scene), "caption": said.text}))
            words.append([names.get(w, links.get(w, links["a"])) for w in word_list] + [links["a"]] * (WORDS - len(word_list)))
            truths.append(truth_of(scene.composition, said, offsets, WORDS))
            shares = cell_shares(scenes[-1])
            rows.append(sum(shares[part][:, None] * names[label] for part, label in enumerate(labels)))
    regions = np.array(rows, np.float32) + 0.01 * dice.normal(size=(count, 16, 64)).astype(np.float32)
    captions = [scene.caption for scene in scenes]
    return SceneSet(
        scenes,
        captions,
        pooled=dice.random((count, 1280)).astype(np.float32),
        tags=unit(dice.normal(size=(count, 384))),
        rows=np.concatenate([regions, np.zeros((count, 8, 64), np.float32)], axis=1),
        cells=np.zeros((count, 16, COMPRESSED), np.float16),
        sentences=unit(dice.normal(size=(count, 384))),
        words=np.array(words, np.float16),
        mask=np.array([[index < len(caption.split()) for index in range(WORDS)] for caption in captions]),
        places=np.stack([cell_shares(scene) for scene in scenes]),
        truth=Truth(**{name: np.stack([truth[name] for truth in truths]) for name in truths[0]}),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_plain_phrases_are_the_captions_of_the_data_set_and_names_are_marked(kind: str) -> None:
    rng = random.Random(3)
    for content in draw_group(kind, ["cat", "red apple", "ox", "slice of pizza"], rng) or []:
        assert phrase(content).text == content.caption
        for said in (phrase(content), phrase(content, rng)):
            for (begin, end), part in zip(said.names, content.parts, strict=True):
                assert said.text[begin:end][0] == part.label[0]
            assert len(said.ends) == len(content.parts) - 1


def test_truth_about_the_words_of_a_caption() -> None:
    content = Composition("relation", (Part("cat"), Part("red fox")), ("left",))
    said = phrase(content)  # a cat left of a red fox
    offsets = [(0, 0), (0, 1), (2, 5), (6, 10), (11, 13), (14, 15), (16, 19), (20, 23), (0, 0)]
    truth = truth_of(content, said, offsets, 9)
    assert truth["starts"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert truth["nouns"][0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert truth["nouns"][1].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0]
    assert truth["direction"].tolist() == [[0, 0], [-1, 0], [0, 0]]
    assert truth["exists"].tolist() == [1, 1, 0]


def test_numbers_and_sizes_of_parts() -> None:
    content = Composition("count", (Part("cat", 3), Part("dog", size="small")))
    truth = truth_of(content, phrase(content), [], 4)
    assert truth["number"].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert truth["size"].tolist() == [0, -1, 0]


def test_boxes_are_spread_over_the_cells_that_they_cover() -> None:
    shares = cell_shares(Scene("", "count", "", 0, ("cat",), (2,), ("",), (), ((0, 0, 0.25, 0.25), (0.5, 0.75, 0.75, 1.0))))
    assert shares.shape == (PARTS, 16)
    assert shares[0].reshape(4, 4)[0, 0] == shares[0].reshape(4, 4)[3, 2] == 0.5
    assert shares[1:].sum() == 0


def test_a_new_cross_encoder_adds_nothing_for_places() -> None:
    torch.manual_seed(0)
    model = CrossEncoder(toy_basis()).eval()
    scenes = _scenes(8, 0)
    rows = torch.randn(8, TOKENS, 64)
    sentence, words, mask = (torch.from_numpy(part) for part in (scenes.sentences, scenes.words.astype(np.float32), scenes.mask))
    without = model.score(agreement(sentence, words, mask.long(), rows, model.basis))
    assert torch.equal(model.pair_score(sentence, words, mask.long(), rows), without)


def test_the_check_learns_directions_that_the_embedding_cannot_see() -> None:
    scenes, fresh = _scenes(160, 0), _scenes(80, 1)
    flat = unit(np.ones((160, 384)))
    words = scenes.words[:, 1:2].repeat(3, axis=1)
    names = NameWords(words, np.ones(words.shape[:2], bool))
    recipe = PositionRecipe(reading_steps=150, steps=60, groups=6, learning_rate=1e-2)
    model = train_positions(scenes, flat, names, 20.0, recipe, seed=1)
    with torch.no_grad():
        keys = model.head(torch.from_numpy(fresh.rows[:, :16]), torch.from_numpy(fresh.cells).float())
        scores = model.check.grid(torch.from_numpy(fresh.words).float(), torch.from_numpy(fresh.mask), keys)
        alone = model.check(
            torch.from_numpy(words).float(), torch.ones(words.shape[:2], dtype=torch.int64), keys[:1].expand(160, -1, -1)
        )
    right = [scores[group][:, group].argmax(1) == torch.arange(len(group)) for group in map(torch.from_numpy, fresh.groups)]
    assert torch.cat(right).float().mean() > 0.8  # chance: 0.25
    assert alone.abs().max() < 0.1 * scores.std()  # a name says nothing about places


def test_pairs_and_the_grid_agree() -> None:
    torch.manual_seed(1)
    check = PositionCheck().eval()
    for parameter in check.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    scenes = _scenes(8, 0)
    words, mask, keys = torch.from_numpy(scenes.words).float(), torch.from_numpy(scenes.mask), torch.randn(8, 16, 32)
    assert torch.allclose(check.grid(words, mask, keys).diagonal(), check(words, mask, keys), atol=1e-5)


def test_places_of_the_check_are_in_reading_order() -> None:
    places = PositionCheck().places
    assert places[1, 0] > places[0, 0]
    assert places[4, 1] > places[0, 1]


def test_keys_start_as_tags_and_are_stored_two_to_a_row() -> None:
    regions, cells = torch.randn(3, 16, 64), torch.randn(3, 16, COMPRESSED)
    keys = RegionHead().eval()(regions, cells)
    assert torch.allclose(keys, torch.nn.functional.normalize(regions[..., :32], dim=-1), atol=1e-6)
    assert torch.equal(key_rows(keys)[0, 0], torch.cat([keys[0, 0], keys[0, 1]]))
    stored = stored_tokens(unit(np.ones((3, 384))), np.zeros((3, 24, 64), np.float32), keys.detach().numpy())
    assert np.abs(stored[:, KEYS].reshape(3, 16, 32) - keys.detach().numpy()).max() < 0.01


def test_the_compressor_keeps_most_of_what_varies() -> None:
    dice = torch.Generator().manual_seed(0)
    cells = torch.randn(400, 20, generator=dice) @ torch.randn(20, 1280, generator=dice)
    compressed = fit_compressor(cells)(cells)
    distances = torch.cdist(cells[:20], cells[:20]), torch.cdist(compressed[:20], compressed[:20])
    assert torch.corrcoef(torch.stack([part.flatten() for part in distances]))[0, 1] > 0.999


def test_scenes_train_the_embedding_beside_pictures_of_one_thing() -> None:
    scenes = _scenes(16, 0)
    fitted = train_embedding(toy_dataset(0), SMALL, seed=1, scenes=scenes)
    assert fitted.unseen_scenes.shape == (16, 384)
    assert np.allclose(np.linalg.norm(fitted.unseen_scenes, axis=1), 1.0, atol=1e-5)
    verdict = judge_scenes(scenes, stored_tokens(embeddings(fitted.head, scenes), scenes.rows), CrossEncoder(toy_basis()).eval())
    assert set(verdict.figures()) == {"all seen", "relation seen"}
    assert verdict.figures()["all seen"]["queries"] == 16


def test_scenes_with_a_held_out_caption_are_left_out() -> None:
    scenes, held_out = _scenes(40, 0), toy_dataset(0)
    held_out = held_out.select(held_out.where(lambda record: record.caption == "cat"))
    kept = scenes_without(scenes, held_out)
    assert 0 < len(kept) < len(scenes)
    assert not any("cat" in scene.labels for scene in kept.scenes)


def test_a_recipe_without_steps_changes_nothing() -> None:
    scenes = _scenes(8, 0)
    names = NameWords(scenes.words, scenes.mask)
    model = train_positions(scenes, scenes.tags, names, 20.0, PositionRecipe(reading_steps=0, steps=0), seed=1)
    torch.manual_seed(1)
    fresh = Positions().state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("A frog.", "frog"),
        ("The big red frog, in a pond", "red frog"),
        ("cat face", "cat"),
        ("Two dogs", None),
        ("It is a b c d", None),
    ],
)
def test_names_in_captions(caption: str, name: str | None) -> None:
    assert thing_name(caption) == name


def test_only_transparent_pictures_are_cut_out() -> None:
    picture = Image.new("RGBA", (300, 200))
    picture.paste((255, 0, 0, 255), (50, 50, 150, 150))
    assert cut_out(picture) is None  # a full square may be a photo with a border
    picture.paste((0, 0, 0, 0), (50, 50, 100, 100))
    found = cut_out(picture)
    assert found is not None
    assert found.size == (100, 100)
    assert cut_out(Image.new("RGBA", (300, 200))) is None
