"""Tiny image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path) -> Draw:
    """Write an image of one colour below `tmp_path`."""

    def draw(name: str, colour: tuple[int, ...] = (200, 30, 30), size: tuple[int, int] = (8, 6)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(path)
        return path

    return draw
