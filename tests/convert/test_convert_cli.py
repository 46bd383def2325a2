"""`milvus-coop bundle convert` and `bundle models`, as a user types them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from milvus_coop.bundle import load_bundle
from milvus_coop.cli.main import cli
from milvus_coop.errors import BundleInvalidError
from milvus_coop.models.backends.onnx import OnnxBackend
from milvus_coop.models.open import open_encoder
from milvus_coop.models.preprocess.images import decode
from milvus_coop.models.reranker import Reranker
from milvus_coop.offline.convert.catalogue import FAMILIES
from milvus_coop.serving.plans.check import check_bundle
from tests.convert.conftest import IMAGES, TEXTS, Pair


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bundle", *map(str, arguments)])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_graphs(precision: str, checkpoint: Callable[[str], Path], pairs: Callable[[str], Pair], tmp_path: Path) -> None:
    done = run("convert", checkpoint("blip"), "--out", tmp_path / "small", "--precision", precision, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    whole = pairs("blip").bundle
    assert facts["bytes"] < 0.9 * sum(file.n_bytes for file in whole.spec.files.values())
    assert 0 < facts["differences"]["image_embedding"] < {"fp16": 1e-3, "int8": 0.1}[precision]
    assert f"graphs in {precision}" in (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    if precision == "int8":
        with pytest.raises(BundleInvalidError, match="made for ONNX Runtime on CPUs"):
            check_bundle(load_bundle(tmp_path / "small"))


def test_the_summary(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    options = ("--name", "mine", "--bundle-version", "2.1", "--licence", "CC0", "--text-length", "20", "--keep", "store")
    done = run("convert", "--be", checkpoint("clip"), "--ce", checkpoint("blip"), "--out", tmp_path / "b", *options)
    assert done.exit_code == 0, done.output
    assert "mine 2.1, separate" in done.stdout
    assert "in a token store" in done.stdout
    assert f"milvus-coop ingest photos/ --bundle {tmp_path / 'b'} --collection mine" in done.stdout
    spec = load_bundle(tmp_path / "b").spec
    assert (spec.licence, spec.text.max_length, spec.tokens.keep, spec.score) == ("CC0", 20, "store", "ce")
    assert spec.ce_text is not None
    shown = run("show", tmp_path / "b").stdout
    assert "37 x 32 x int8" in shown
    assert "in a token store" in shown


def test_pooled_tokens(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """6 x 6 patches to 3 x 3: the mean of four each, and [CLS] as it was."""
    done = run("convert", checkpoint("blip"), "--out", tmp_path / "pooled", "--pool-tokens", "3")
    assert done.exit_code == 0, done.output
    bundle = load_bundle(tmp_path / "pooled")
    assert (bundle.spec.tokens.count, bundle.spec.tokens.dim) == (10, 32)
    assert "average-pooled" in (tmp_path / "pooled" / "README.md").read_text(encoding="utf-8")
    backend = OnnxBackend(bundle)
    encoder = open_encoder(bundle, backend)
    images, words = encoder.encode_images([decode(IMAGES[0])]), encoder.encode_texts(TEXTS[:1])
    assert 0 < Reranker(backend).score_pairs(words.text_side, images.image_side).probability[0] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the models are not clear.*MODEL alone, or --be MODEL and --ce MODEL"),
        (("--be", "{clip}"), "the models are not clear"),
        (("{blip}", "--be", "{clip}", "--ce", "{blip}"), "the models are not clear"),
        (("{clip}",), "clip .CLIP. only embeds.*a cross-encoder as well"),
        (("{vilt}",), "vilt .ViLT. only matches.*a bi-encoder as well"),
        (("{blip}", "--pool-tokens", "4"), "6 x 6 patches cannot be pooled to 4 x 4.*one of 1, 2, 3"),
        (("--be", "{clip}", "--ce", "{vilt}", "--pool-tokens", "1"), "are no grid of patches"),
        (("/no/such/model",), "there is no folder '/no/such/model'"),
        (("{blip}", "--ce-revision", "v1"), "a revision is given without its model"),
        (("{blip}", "--pool-tokens", "2", "--keep", "nowhere"), "one of the two"),
        (("{blip}", "--name", "../evil"), "'../evil' cannot name a bundle"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    names = {name: str(checkpoint(name)) for name in ("blip", "clip", "vilt")}
    done = run("convert", *(part.format(**names) for part in arguments), "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert re.search(message, done.output.replace("\n", " ")), done.output
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [8, 9])
def test_short_texts(length: int, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    done = run("convert", checkpoint("blip"), "--out", tmp_path / "short", "--text-length", str(length))
    assert done.exit_code == 0, done.output


def test_a_place_that_cannot_be_written(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, message in (("file/bundle", "cannot be written"), ("link", "link exists")):
        done = run("convert", checkpoint("blip"), "--out", tmp_path / out)
        assert done.exit_code == 2
        assert message in done.output


def test_an_end_by_signal_leaves_nothing(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "milvus_coop", "bundle", "convert", str(checkpoint("blip")), "--out", str(tmp_path / "bundle")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "exporting the graphs" in "".join(takewhile(lambda line: "comparing" not in line, iter(process.stderr.readline, "")))
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    done = run("convert", checkpoint("blip"), "--out", tmp_path)
    assert done.exit_code == 2
    assert f"{tmp_path} exists" in done.output


def test_models() -> None:
    listed = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]
    assert [entry["name"] for entry in listed] == [family.name for family in FAMILIES]
    assert all(entry["licence"] and entry["verified"] for entry in listed)
    assert "both roles" in run("models").stdout
