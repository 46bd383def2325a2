"""tokenizer.json files that give the ids of the transformers tokenizers they were written from."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milvus_coop.bundle.spec import TextSpec
from milvus_coop.errors import ConvertError
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.offline.convert.tokenizing import write_tokenizer
from tests.convert.kit import (
    CAPTIONS,
    bert_tokenizer,
    clip_tokenizer,
    plain_siglip_tokenizer,
    roberta_tokenizer,
    siglip2_tokenizer,
    siglip_tokenizer,
    xlmr_tokenizer,
)

MAKERS: dict[str, Callable[[Path], Any]] = {
    "bert": bert_tokenizer,
    "clip": clip_tokenizer,
    "roberta": roberta_tokenizer,
    "siglip": siglip_tokenizer,
    "siglip, plain": plain_siglip_tokenizer,
    "siglip 2": siglip2_tokenizer,
    "xlmr": xlmr_tokenizer,
}
FRAGMENTS = (
    *("hello", "A Dog", "x" * 30, "'s", '"x"', "3.14", "#tag", "@me", "(a)", "-", "_", "!", "...", "!?"),
    *(
        "\u732b\u304c\u597d\u304d",
        "\u039f\u0394\u039f\u03a3",
        "\u03a3",
        "\u00df",
        "\u0130",
        "\u01c5",
        "\ud55c\uad6d",
        "\u05e2\u05d1",
        "\u0939\u093f",
    ),
    *(
        "\u00e9",
        "e\u0301",
        "\U0001f6b2",
        "\U0001f3f3\ufe0f\u200d\U0001f308",
        "\u2460",
        "\u338f",
        "\ufb01",
        "\ufdfa",
        "\uff11\uff12",
        "\uff01",
        "\u3002",
    ),
    *("\u2026", "\u2014", "\u00bd", "\u2122", "  ", "\t", "\n", "\u3000", "\u2581", "\u200b", "\u00ad", "\ufeff", "\u2028"),
    *("\x00", "\x07", "\x1c", "\x85", "\xa0"),
)
"""Scripts, forms, spaces and marks on which tokenizers that nearly agree part company."""
TEXTS = [*CAPTIONS.read_text(encoding="utf-8").splitlines(), "AN apple, and a PEAR!", "naïve " * 50, "🚲 猫"]


@pytest.fixture(params=MAKERS)
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MAKERS[request.param](tmp_path / "checkpoint")


@pytest.mark.parametrize("length", [8, 20, 64])
def test_ids_are_the_same(theirs: Any, length: int, tmp_path: Path) -> None:
    spec = write_tokenizer(theirs, tmp_path / "tokenizer.json", max_length=length)
    ours = Tokenizer(tmp_path / "tokenizer.json", spec)
    assert spec == TextSpec(length, theirs.pad_token_id)
    for text in TEXTS:
        wanted = theirs(text, truncation=True, max_length=length)["input_ids"]
        found = ours([text])
        assert found["input_ids"][0, : len(wanted)].tolist() == wanted
        assert found["attention_mask"].sum() == len(wanted)
        assert set(found["input_ids"][0, len(wanted) :].tolist()) <= {spec.pad_id}


def test_ids_are_the_same_for_anything_one_can_type(theirs: Any, tmp_path: Path) -> None:
    spec = write_tokenizer(theirs, tmp_path / "tokenizer.json", max_length=24)
    ours = Tokenizer(tmp_path / "tokenizer.json", spec)
    dice = random.Random(0)
    for _ in range(3000):
        text = "".join(dice.choice(["", " "]) + dice.choice(FRAGMENTS) for _ in range(dice.randint(1, 6)))
        if text.strip():
            wanted, found = theirs(text, truncation=True, max_length=24)["input_ids"], ours([text])
            assert found["input_ids"][0, : found["attention_mask"].sum()].tolist() == wanted, repr(text)


def test_padding_to_full_length(theirs: Any, tmp_path: Path) -> None:
    spec = write_tokenizer(theirs, tmp_path / "tokenizer.json", max_length=30, pad_to_max=True)
    ours = Tokenizer(tmp_path / "tokenizer.json", spec)(TEXTS)
    wanted = theirs(TEXTS, truncation=True, max_length=30, padding="max_length", return_attention_mask=True)
    assert ours["input_ids"].tolist() == wanted["input_ids"]
    assert ours["attention_mask"].tolist() == wanted["attention_mask"]


def test_padding_that_the_model_reads_and_that_we_would_put_elsewhere_is_refused(tmp_path: Path) -> None:
    left = siglip2_tokenizer(tmp_path / "checkpoint", padding_side="left")
    with pytest.raises(ConvertError, match=r"pads with <pad> on the left; expected: .*padding_side"):
        write_tokenizer(left, tmp_path / "tokenizer.json", max_length=16, pad_to_max=True)
    left.padding_side, left.pad_token = "right", None
    with pytest.raises(ConvertError, match="pads with None"):
        write_tokenizer(left, tmp_path / "tokenizer.json", max_length=16, pad_to_max=True)


def test_the_checkpoints_own_tokenizer_is_left_alone(theirs: Any, tmp_path: Path) -> None:
    before = theirs(TEXTS)["input_ids"]
    write_tokenizer(theirs, tmp_path / "tokenizer.json", max_length=8)
    assert theirs(TEXTS)["input_ids"] == before


def test_a_tokenizer_that_does_something_else_is_refused(tmp_path: Path) -> None:
    class Shouting(type(bert_tokenizer(tmp_path / "checkpoint"))):  # type: ignore[misc]
        def __call__(self, text: Any, **options: Any) -> Any:
            return super().__call__(f"{text} {text}", **options)

    loud = Shouting.from_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ConvertError, match="reads “a dog” as"):
        write_tokenizer(loud, tmp_path / "tokenizer.json", max_length=16)
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_tokenizer_in_python_only_is_refused(tmp_path: Path) -> None:
    class Plain:
        pass

    with pytest.raises(ConvertError, match="a Plain cannot be written"):
        write_tokenizer(Plain(), tmp_path / "tokenizer.json", max_length=16)


def test_lower_case_is_part_of_the_file(tmp_path: Path) -> None:
    """SigLIP's Python code does it; a file that forgot it would pass every test in lower case."""
    spec = write_tokenizer(siglip_tokenizer(tmp_path / "checkpoint"), tmp_path / "tokenizer.json", max_length=16)
    ours = Tokenizer(tmp_path / "tokenizer.json", spec)
    assert ours(["A, DOG!"])["input_ids"].tolist() == ours(["a dog"])["input_ids"].tolist()
