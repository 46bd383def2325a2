"""What is refused as "not the checkpoint"."""

from __future__ import annotations

import numpy as np
import pytest

from milvus_coop.errors import ConvertError
from milvus_coop.offline.convert.graphs import GraphPrecision
from milvus_coop.offline.convert.parity import WITH_TOKENS, refuse
from milvus_coop.offline.export.parity import Difference, difference

PRECISIONS: list[GraphPrecision] = ["fp32", "fp16", "int8"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_embeddings_that_have_nothing_to_do_with_each_other(precision: GraphPrecision) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 4, 512)))
    with pytest.raises(ConvertError, match="image_embedding has a cosine of"):
        refuse({"image_embedding": difference(theirs, ours)}, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_at_all(precision: GraphPrecision) -> None:
    with pytest.raises(ConvertError, match="text_embedding has a cosine of"):
        refuse({"text_embedding": difference(np.ones((2, 8)), np.zeros((2, 8)))}, precision)


@pytest.mark.parametrize("value", [0.2, float("nan")])
def test_other_probabilities(value: float) -> None:
    with pytest.raises(ConvertError, match="match_probability differs"):
        refuse({"match_probability": Difference(value, 1.0)}, "int8")


def test_what_is_as_it_should_be() -> None:
    same = Difference(1e-6, 1.0)
    refuse({"image_embedding": same, "match_probability": same, WITH_TOKENS: Difference(0.01, 1.0)}, "fp32")
