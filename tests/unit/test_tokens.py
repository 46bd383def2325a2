"""Quantised image tokens against a naive version, and damaged strings."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milvus_coop.bundle import TokenSpec
from milvus_coop.errors import TokensError
from milvus_coop.models.tokens import arrange, decode, pack, quantise

SPEC = TokenSpec(count=3, dim=8)


@given(scale=st.floats(2e-2, 1e3), seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_quantise_like_the_naive_version(scale: float, seed: int) -> None:
    tokens = (np.random.default_rng(seed).standard_normal((2, 3, 8)) * scale).astype(np.float32)
    values, scales = quantise(tokens)
    for image in range(2):
        for token in range(3):
            step = np.float16(max(abs(float(x)) for x in tokens[image, token]) / 127)
            assert scales[image, token] == step
            for x, q in zip(tokens[image, token], values[image, token], strict=True):
                assert q == max(-127, min(127, round(float(x) / float(step))))
    # float16 scales are rounded too, by at most 2**-11 (of tokens this large), which 127 steps turn into 0.06 of one.
    assert (np.abs(values * scales[..., None].astype(np.float32) - tokens) <= 0.57 * scales[..., None]).all()


def test_zero_rows_stay_zero() -> None:
    values, scales = quantise(np.zeros((1, 3, 8), dtype=np.float32))
    assert not values.any()
    assert not scales.any()


def test_strings_hold_the_tokens() -> None:
    values, scales = quantise(np.random.default_rng(0).standard_normal((5, 3, 8)).astype(np.float32))
    strings = pack(values, scales)
    assert {len(base64.b64decode(s)) for s in strings} == {SPEC.n_bytes}
    got_values, got_scales = arrange([decode(string, SPEC) for string in strings], SPEC)
    assert (got_values == values).all()
    assert (got_scales == scales.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("string", "message"),
    [
        ("", "holds 0 bytes"),
        ("not base64!", "not base64"),
        ("äöü", "not base64"),
        (base64.b64encode(b"x" * 29).decode(), "holds 29 bytes; expected: 30 bytes"),
        (base64.b64encode(b"x" * 30).decode()[:-4], "holds 27 bytes"),
    ],
)
def test_damaged_strings(string: str, message: str) -> None:
    with pytest.raises(TokensError, match=message):
        decode(string, SPEC)
