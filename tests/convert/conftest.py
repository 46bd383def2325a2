"""One converted bundle per family and way to keep tokens, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from milvus_coop.bundle import Bundle
from milvus_coop.bundle.spec import Keep
from milvus_coop.models.preprocess.images import decode
from milvus_coop.offline.convert.bundle import Converted, convert
from milvus_coop.offline.convert.checkpoint import open_checkpoint
from milvus_coop.offline.convert.parity import Samples
from tests.convert.checkpoints import MAKERS

IMAGES = sorted((Path(__file__).parent.parent.parent / "examples" / "images").glob("*.[jp][pn]g"))
TEXTS = ["a red apple", "two dogs on a beach", "an old stone bridge over a small river in autumn", "BICYCLE!"]
SAMPLES = Samples([decode(path) for path in IMAGES[:4]], TEXTS)

Make = Callable[..., Path]


@dataclass(frozen=True)
class Pair:
    """A bundle, and the checkpoints that it came from."""

    be: Path
    ce: Path
    converted: Converted

    @property
    def bundle(self) -> Bundle:
        return self.converted.bundle


PAIRS: dict[str, tuple[str, str, Keep | None]] = {
    "blip": ("blip", "blip", None),
    "clip+blip": ("clip", "blip", "store"),
    "clip+vilt": ("clip", "vilt", None),
    "siglip+bridgetower": ("siglip", "bridgetower", None),
    "blip+blip2": ("blip", "blip2", None),
    "qwen": ("qwen-embedding", "qwen-reranker", None),
    "clip+qwen, no tokens": ("clip", "qwen-reranker", "nowhere"),
    "naflex+vilt": ("naflex", "vilt", None),
    "naflex+vilt, no tokens": ("naflex", "vilt", "nowhere"),
    "metaclip2+blip": ("metaclip2", "blip", None),
    "altclip+vilt": ("altclip", "vilt", None),
    "chinese-clip+vilt": ("chinese_clip", "vilt", None),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint of a family, made once."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(name: str) -> Path:
        path = folder / name
        return path if path.exists() else MAKERS[name](path)

    return make


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]) -> Callable[[str], Pair]:
    """The bundle of that name in `PAIRS`, converted once."""
    folder = tmp_path_factory.mktemp("bundles")
    made: dict[str, Pair] = {}

    def make(name: str) -> Pair:
        if name not in made:
            first, second, keep = PAIRS[name]
            be = open_checkpoint(checkpoint(first))
            ce = be if first == second else open_checkpoint(checkpoint(second))
            out = folder / f"bundle{len(made)}"
            made[name] = Pair(checkpoint(first), checkpoint(second), convert(be, ce, out, SAMPLES, keep=keep))
        return made[name]

    return make


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Pair:
    return pairs(request.param)
