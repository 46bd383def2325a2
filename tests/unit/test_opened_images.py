"""Images that are opened again: which uris are files, and what is remembered of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from milvus_coop.models.preprocess.uris import local_path
from milvus_coop.search.images import PixelCache


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/b.png", "/a/b.png"),
        ("/a/b c#1?.png", "/a/b c#1?.png"),
        ("file:///a/b%20c.png", "/a/b c.png"),
        ("FILE://localhost/a.png", "/a.png"),
        ("", None),
        ("b.png", None),
        ("../b.png", None),
        ("file://host/a.png", None),
        ("file://[/a.png", None),
        ("http://host/a.png", None),
        ("https://host/a.png", None),
        ("s3://bucket/a.png", None),
        ("//host/share/a.png", None),
        ("file:////host/share/a.png", None),
        ("\\\\host\\share\\a.png", None),
        ("/a\0.png", None),
        ("data:image/png;base64,AAAA", None),
    ],
)
def test_only_files_of_this_machine(uri: str, path: str | None) -> None:
    assert local_path(uri) == (None if path is None else Path(path))


def test_what_was_used_last_is_remembered() -> None:
    cache = PixelCache(limit_bytes=30)
    pixels = {i: {"ce_pixel_values": np.full((1, 10), i, np.uint8)} for i in range(5)}
    for i in range(3):
        cache.put(("p", i, 0), pixels[i])
    assert cache.get(("p", 0, 0)) is pixels[0]
    cache.put(("p", 3, 0), pixels[3])
    assert [cache.get(("p", i, 0)) is not None for i in range(4)] == [True, False, True, True]
    assert cache.get(("p", 0, 1)) is None
    assert cache.n_bytes == 30
    cache.put(("large", 0, 0), {"ce_pixel_values": np.zeros((1, 31), np.uint8)})
    assert cache.get(("large", 0, 0)) is None
    assert cache.n_bytes == 0


def test_threads_share_a_cache() -> None:
    cache = PixelCache(limit_bytes=100)

    def use(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, 30, 500).tolist():
            if cache.get(("p", i, 0)) is None:
                cache.put(("p", i, 0), {"x": np.zeros((1, 10), np.uint8)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    held = [i for i in range(30) if cache.get(("p", i, 0)) is not None]
    assert cache.n_bytes == 10 * len(held) <= 100
