"""Every checkpoint that the docs name, with its published settings: it opens, converts, and computes what transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from milvus_coop.models.backends.onnx import OnnxBackend
from milvus_coop.models.open import open_encoder
from milvus_coop.models.preprocess.images import decode
from milvus_coop.models.reranker import Reranker
from milvus_coop.offline.convert.bundle import convert
from milvus_coop.offline.convert.catalogue import FAMILIES
from milvus_coop.offline.convert.checkpoint import open_checkpoint
from milvus_coop.offline.convert.families import open_source
from milvus_coop.offline.convert.parity import WITH_TOKENS
from milvus_coop.offline.convert.tokenizing import write_tokenizer
from tests.convert.conftest import IMAGES, SAMPLES, TEXTS
from tests.convert.published import RECORDS, make

SAME = 1e-4


def _named(role: str) -> list[str]:
    return [name for name, record in RECORDS.items() if record["role"] == role]


PAIRS = [*((name, name) for name in _named("joint")), *zip(_named("be"), cycle(_named("ce")), strict=False)]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small checkpoint with the settings of a record, made once."""
    folder = tmp_path_factory.mktemp("published")

    def made(name: str) -> Path:
        path = folder / name
        return path if path.exists() else make(path, RECORDS[name])

    return made


def test_every_model_that_is_listed_has_a_record() -> None:
    names = {record["checkpoint"] for record in RECORDS.values()}
    elsewhere = {family.example for family in FAMILIES if family.model_types == ("qwen3_vl",)}  # see test_qwen3_vl.py
    assert {family.example for family in FAMILIES} <= names | elsewhere
    docs = (Path(__file__).parents[2] / "docs" / "pretrained.md").read_text(encoding="utf-8")
    owners = {name.partition("/")[0] for name in names}
    words = (word.strip("`.,;:()|'\"") for word in docs.split())
    assert {word for word in words if word.partition("/")[0] in owners and "/" in word} <= names


@pytest.mark.parametrize("name", RECORDS)
def test_it_opens(name: str, published: Callable[[str], Path], tmp_path: Path) -> None:
    source = open_source(open_checkpoint(published(name)))
    assert (source.retriever is None, source.matcher is None) == {
        "be": (False, True),
        "ce": (True, False),
        "joint": (False, False),
    }[RECORDS[name]["role"]]
    longest = source.positions if source.pad_to_max else min(64, source.positions)
    text = write_tokenizer(source.tokenizer, tmp_path / "tokenizer.json", max_length=longest, pad_to_max=source.pad_to_max)
    assert text.max_length >= 40


@pytest.mark.parametrize(("be", "ce"), PAIRS)
def test_it_converts(be: str, ce: str, published: Callable[[str], Path], tmp_path: Path) -> None:
    first = open_checkpoint(published(be))
    second = first if be == ce else open_checkpoint(published(ce))
    converted = convert(first, second, tmp_path / "bundle", SAMPLES)
    assert max(found.largest for name, found in converted.differences.items() if name != WITH_TOKENS) < SAME
    backend = OnnxBackend(converted.bundle)
    encoder = open_encoder(converted.bundle, backend)
    images, words = encoder.encode_images([decode(path) for path in IMAGES[: len(TEXTS)]]), encoder.encode_texts(TEXTS)
    scores = Reranker(backend).score_pairs(words.text_side, images.image_side)
    for values in (images.embeddings, words.embeddings, scores.logit[:, None]):
        assert np.ptp(values, axis=0).max() > SAME  # else every input would give the same, and parity would say nothing
