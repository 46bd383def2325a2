"""`CoopModel` on a real Triton, against the same in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milvus_coop import CoopModel
from milvus_coop.bundle import CROSS_ENCODER
from tests.servers.triton import TritonForTests

pytestmark = pytest.mark.triton

IMAGES = sorted((Path(__file__).parent.parent.parent / "examples" / "images").glob("*.jpg"))[:24]
WORDS = ["a red apple", "two dogs on a beach", "猫", "🚲 in the rain", "an old stone bridge over a small river in autumn"]
SAME = 5e-3
"""A token's int8 value can fall to the other side of a rounding step, here and there: see test_triton_search.py."""


def test_the_same_numbers_as_in_process(triton_server: TritonForTests) -> None:
    with CoopModel(models="onnx") as here, CoopModel(models=triton_server.uri) as there:
        texts = [f"{text}, number {i}" for i in range(12) for text in WORDS]
        assert len(texts) * len(IMAGES) > 2 * here.spec.graph(CROSS_ENCODER).max_batch
        ours, theirs = here.compare(texts, IMAGES), there.compare(texts, IMAGES)
        np.testing.assert_allclose(theirs.similarity, ours.similarity, atol=1e-5)
        np.testing.assert_allclose(theirs.score, ours.score, atol=SAME)
        assert np.ptp(ours.score) > 10 * SAME
        np.testing.assert_allclose(there.embed_images(IMAGES), here.embed_images(IMAGES), atol=1e-5)
        pairs = there.score_pairs(texts[:5], IMAGES[:5])
        np.testing.assert_allclose(pairs, np.diagonal(ours.score[:5, :5]), atol=SAME)
