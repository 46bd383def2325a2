"""A bundle or a checkpoint from anyone is refused with a short message, or works. Nothing ends the process or takes long."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from milvus_coop.bundle.spec import Keep
from milvus_coop.bundle.verify import verify_bundle
from milvus_coop.config import Settings
from milvus_coop.errors import BackendError, BundleError
from milvus_coop.models.open import Models, open_models
from tests.fuzz.bundles import files_of, other_bundles
from tests.fuzz.runs import check_message, holds, lengths
from tests.toy_bundle import make_bundle


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def use(models: Models) -> None:
    """Encode and match. A graph that fails on these inputs is a `BackendError` or a `BundleError`."""
    texts = models.encoder.encode_texts(["a red dog", "blue"])
    images = models.encoder.encode_images([Image.new("RGB", (40, 30), "red")] * 2)
    scores = models.reranker.score_matrix(texts.text_side, images.image_side)
    assert scores.probability.shape == (2, 2)
    assert texts.embeddings.dtype == np.float32


@pytest.mark.parametrize("keep", ["collection", "nowhere"])
@lengths(short=500, long=4000)
def test_other_bundles(keep: Keep, inputs: int, tmp_path: Path) -> None:
    opened, worked = 0, 0
    files = files_of(make_bundle(tmp_path / "right", keep).folder)
    folder = tmp_path / "other"

    def rule(changed: Mapping[str, bytes]) -> None:
        nonlocal opened, worked
        write(folder, changed)
        problems = verify_bundle(folder).problems
        try:
            models = open_models(Settings(bundle=str(folder), threads=1))
        except BundleError as exc:
            check_message(exc)
            refused = str(exc)
        else:
            refused = ""
        if refused:
            assert problems[:1] == [refused] or "no usable tokenizer" in refused
            return
        opened += 1
        assert problems == []
        try:
            use(models)
            worked += 1
        except (BackendError, BundleError) as exc:
            check_message(exc)
        finally:
            models.close()

    holds(rule, other_bundles(files), inputs)
    assert 0 < worked < opened < inputs
