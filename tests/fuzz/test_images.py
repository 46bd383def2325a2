"""A damaged image is decoded, or refused with a short message, and memory stays bounded."""

from __future__ import annotations

import pytest

from milvus_coop.errors import ImageError
from milvus_coop.models.preprocess.images import decode
from tests.fuzz.images import damaged_files, files
from tests.fuzz.runs import check_message, holds, lengths

MAX_PIXELS = 1_000_000


@pytest.mark.parametrize("name", files())
def test_the_files_can_be_read(name: str) -> None:
    assert set(decode(files()[name]).size) == {24, 40}


@lengths(short=500, long=10_000)
@pytest.mark.filterwarnings("ignore")  # Pillow's reader of TIFF tags warns
def test_damaged_files(inputs: int) -> None:
    decoded = 0

    def rule(content: bytes) -> None:
        nonlocal decoded
        try:
            image = decode(content, at_least=16, max_pixels=MAX_PIXELS)
        except ImageError as exc:
            check_message(exc)
            return
        decoded += 1
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= MAX_PIXELS

    holds(rule, damaged_files(), inputs)
    assert 0 < decoded < inputs
