from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from milvus_coop.errors import DatasetError, InvalidArgumentError
from milvus_coop.offline.datasets import Caption, DataProblem
from milvus_coop.offline.evaluation.corpus import build_corpus
from milvus_coop.offline.evaluation.protocols import pools
from tests.evaluation.kit import Given, drawn, item


def test_a_caption_of_two_images_is_one_text_with_two_right_answers(tmp_path: Path) -> None:
    corpus = build_corpus(Given([item(0, "a dog", "a pet"), item(1, "a cat"), item(2, "a dog", "a dog")]), tmp_path)
    texts = {text.text: text.images for text in corpus.texts["en"]}
    assert texts == {"a dog": {0, 2}, "a pet": {0}, "a cat": {1}}
    (pool,) = pools(corpus)
    assert pool.relevant_images == {0: {0, 2}, 1: {0}, 2: {1}}
    assert pool.relevant_texts == {0: {0, 1}, 1: {2}, 2: {0}}
    assert pool.pairs == (9, 9)
    assert pool.distinct_pairs == 9


def test_images_that_are_drawn_become_files(tmp_path: Path) -> None:
    corpus = build_corpus(Given([item(0), item(1)]), tmp_path)
    with Image.open(corpus.images[1].path) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(drawn(zlib.crc32(b"item001"))))


def test_an_image_that_cannot_be_drawn_leaves_with_its_texts(tmp_path: Path) -> None:
    data = Given(
        [item(0, "a dog"), item(1, "a cat", "a pet"), item(2, "a pet")],
        problems=[DataProblem("line 9", "no image")],
        broken={"item001"},
    )
    corpus = build_corpus(data, tmp_path)
    assert [image.id for image in corpus.images] == ["item000", "item002"]
    assert {t.text: t.images for t in corpus.texts["en"]} == {"a dog": {0}, "a pet": {1}}
    assert [problem.place for problem in corpus.problems] == ["line 9", "item001"]


def test_languages_are_pools_of_their_own(tmp_path: Path) -> None:
    both = item(0, Caption("a dog", "en"), Caption("ein Hund", "de"))
    corpus = build_corpus(Given([both, item(1, Caption("a cat", "en"))]), tmp_path)
    english, german = pools(corpus)
    assert (english.language, len(english.texts), len(english.relevant_texts)) == ("en", 2, 2)
    assert (german.language, len(german.texts), german.images) == ("de", 1, (0, 1))
    assert german.relevant_texts == {0: {0}}
    assert list(build_corpus(Given([both]), tmp_path, languages=["de"]).texts) == ["de"]
    with pytest.raises(DatasetError, match="no captions in 'fr'; expected: --language with one of en, de"):
        build_corpus(Given([both]), tmp_path, languages=["fr"])


def test_distractors_are_in_the_pool_and_never_asked_nor_right(tmp_path: Path) -> None:
    others = Given([item(7, "a house"), item(8, "a dog"), item(9, "a tree", split="train")], name="others")
    corpus = build_corpus(Given([item(0, "a dog"), item(1, "a cat")]), tmp_path, distractors=others)
    (pool,) = pools(corpus)
    assert [(image.id, image.distractor) for image in corpus.images] == [
        ("item000", False),
        ("item001", False),
        ("item007", True),
    ]
    assert pool.images == (0, 1, 2)
    assert pool.texts == (0, 1, 2)
    assert set(pool.relevant_images) == {0, 1}
    assert set(pool.relevant_texts) == {0, 1}
    assert pool.pairs == (6, 6)
    assert pool.distinct_pairs == 8
    assert "1 distractors left out: they share a caption" in corpus.problems[0].reason


def test_distractors_without_that_split_give_all_they_have(tmp_path: Path) -> None:
    others = Given([item(8, "a house", split="train"), item(9, "a tree", split="dev")])
    assert len(build_corpus(Given([item(0)]), tmp_path, distractors=others).images) == 3
    with pytest.raises(DatasetError, match="have no items"):
        build_corpus(Given([item(0)]), tmp_path, distractors=Given([]))
    nothing_left = Given([], problems=[DataProblem("line 1", "there is no image a.jpg"), DataProblem("line 2", "not JSON")])
    with pytest.raises(DatasetError, match=r"have no items; 2 left out, first: line 1: there is no image a\.jpg"):
        build_corpus(Given([item(0)]), tmp_path, distractors=nothing_left)


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no items in the split 'dev'"):
        build_corpus(Given([item(0)]), tmp_path, split="dev")


def test_folds_share_nothing_but_distractors_and_captions(tmp_path: Path) -> None:
    data = Given([item(i, f"image {i}", "an image") for i in range(7)])
    corpus = build_corpus(data, tmp_path, distractors=Given([item(9, "a tree")]))
    folds = list(pools(corpus, "1k", fold=3, folds=2))
    assert [pool.images for pool in folds] == [(0, 1, 2, 7), (3, 4, 5, 7)]
    assert [set(pool.relevant_texts) for pool in folds] == [{0, 1, 2}, {3, 4, 5}]
    everywhere = next(n for n, text in enumerate(corpus.texts["en"]) if text.text == "an image")
    assert [pool.relevant_images[everywhere] for pool in folds] == [{0, 1, 2}, {3, 4, 5}]
    (whole,) = pools(corpus, "5k", fold=3, folds=2)
    assert whole.images == (0, 1, 2, 3, 4, 5, 7)


def test_captions_that_no_collection_can_hold_are_named(tmp_path: Path) -> None:
    corpus = build_corpus(Given([item(0, "a dog", "x" * 20_001), item(1, "y" * 30_000)]), tmp_path)
    assert [text.text for text in corpus.texts["en"]] == ["a dog"]
    assert [problem.place for problem in corpus.problems] == ["item000", "item001"]
    assert "20,001 characters" in corpus.problems[0].reason


def test_nothing_to_ask_is_an_error(tmp_path: Path) -> None:
    corpus = build_corpus(Given([item(0), item(1)], broken={"item000", "item001"}), tmp_path)
    with pytest.raises(DatasetError, match="no image with a caption in 'en' that can be used"):
        next(pools(corpus))


def test_protocols_that_do_not_fit(tmp_path: Path) -> None:
    corpus = build_corpus(Given([item(0)]), tmp_path)
    with pytest.raises(DatasetError, match="1 images in its split 'test'; expected: 5,000 or more for the protocol 1k"):
        next(pools(corpus, "1k"))
    with pytest.raises(InvalidArgumentError, match="the protocol is '2k'"):
        next(pools(corpus, "2k"))  # type: ignore[arg-type]
