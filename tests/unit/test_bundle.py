"""The bundle record and the folder: what is written is read, and damage is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milvus_coop.bundle import BundleSpec, load_bundle, shipped_bundles, write_record
from milvus_coop.bundle.folder import RECORD, TOKENIZER, Bundle
from milvus_coop.errors import BundleInvalidError, BundleNotFoundError
from tests.changes import change_one, names

Place = tuple[str | int, ...]


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle("coop-small")


@pytest.fixture
def copy(shipped: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped.folder, tmp_path / "bundle"))


def test_the_shipped_bundle(shipped: Bundle) -> None:
    assert shipped_bundles() == ["coop-small"]
    shipped.verify()
    assert sum(len(zlib.compress(shipped.path(name).read_bytes(), 1)) for name in shipped.spec.files) < 45e6  # in git
    assert -(-shipped.spec.tokens.n_bytes // 3) * 4 <= 3500  # as base64, in a VARCHAR
    assert shipped.spec.licence
    assert shipped.spec.lineage


def test_the_shipped_bundle_keeps_its_fingerprint(shipped: Bundle) -> None:
    """Collections that were made with it stay valid. A new version of the bundle has another."""
    assert (shipped.spec.version, shipped.spec.fingerprint) == ("2.0.1", "512af565bcd2ddeeef9c07a9005f0343")
    assert json.loads(shipped.spec.to_json()) == json.loads(shipped.path(RECORD).read_text(encoding="utf-8"))


def test_round_trip(shipped: Bundle) -> None:
    again = BundleSpec.from_json(shipped.spec.to_json())
    assert again.fingerprint == shipped.spec.fingerprint
    assert again.graphs == shipped.spec.graphs
    assert again.image == shipped.spec.image


def test_the_fingerprint_covers_what_changes_outputs(shipped: Bundle) -> None:
    spec = shipped.spec
    same = dataclasses.replace(spec, metrics={"r1": 99}, licence="other", lineage={})
    assert same.fingerprint == spec.fingerprint
    shorter = dataclasses.replace(spec.text, max_length=9)
    changes: list[dict[str, Any]] = [{"version": "none"}, {"dim": 3}, {"files": {}}, {"text": shorter}]
    for change in changes:
        assert dataclasses.replace(spec, **change).fingerprint != spec.fingerprint


def test_by_folder(copy: Path, shipped: Bundle) -> None:
    assert load_bundle(copy).spec.fingerprint == shipped.spec.fingerprint
    assert write_record(copy, shipped.spec).spec.fingerprint == shipped.spec.fingerprint


def test_not_found(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"no bundle 'nonsense'; expected: .*coop-small.*try: milvus-coop bundle list"):
        load_bundle("nonsense")
    with pytest.raises(BundleNotFoundError):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "bundle.json is not JSON: Expecting value: line 1"),
        ("[]", "is not a bundle record"),
        ("{}", "is not a bundle record"),
        ('{"format": 99}', "format 99; expected: format 1; try: pip install -U"),
        ('{"format": 1}', 'the field "name" is missing'),
    ],
)
def test_broken_records(copy: Path, content: str, message: str) -> None:
    (copy / RECORD).write_text(content, encoding="utf-8")
    with pytest.raises(BundleInvalidError, match=message):
        load_bundle(copy)


WRONG: list[tuple[Place, Any, str]] = [
    (("dim",), -1, "dim is -1; expected: a whole number from 1 to 32,768"),
    (("dim",), "256", 'dim is "256"; expected: a whole number'),
    (("dim",), True, "dim is true"),
    (("dim",), 10**30, "dim is 1000"),
    (("name",), "a/b", "name is \"a/b\"; expected: a name of letters, digits, '.', '_' and '-'"),
    (("name",), ".hidden", 'name is ".hidden"'),
    (("name",), "line\n", r'name is "line\\n"'),
    (("version",), "", 'version is ""; expected: text of 1 to 128 characters'),
    (("kind",), "both", 'kind is "both"; expected: one of joint, separate'),
    (("kind",), "\ud800", r'kind is "\\ud800"; expected: one of joint, separate'),
    (("image", "size"), 0, "image.size is 0"),
    (("image", "std"), [0.5, 0, 0.5], r"image.std\[1\] is 0; expected: a number, above 0 and at most 255"),
    (("image", "std"), [0.5, float("nan"), 0.5], r"image.std\[1\] is NaN"),
    (("image", "std"), [0.5, 0.5], r"image.std is \[0.5, 0.5\]; expected: a list of 3"),
    (("image", "background"), [0, 0, 256], r"image.background\[2\] is 256; expected: a whole number from 0 to 255"),
    (("image", "fit"), "edge-crop", "image.edge is 0 and image.fit is 'edge-crop'"),
    (("image", "resample"), "bicubic", 'there is no field "image.resample"; expected: resampling'),
    (("ce_image",), {"size": -1, "mean": [0, 0, 0], "std": [1, 1, 1]}, "ce_image.size is -1"),
    (("tokens", "count"), 10**5, "tokens.count is 100000"),
    (("tokens", "count"), 10**4, "tokens.count is 10000 and tokens.dim 96: 980,000 bytes per image; expected: at most 49,000"),
    (("tokens", "count"), 0, "tokens.count is 0 and tokens.keep is 'collection'; expected: at least 1"),
    (("tokens", "keep"), "attic", 'tokens.keep is "attic"; expected: one of collection, store'),
    (("graphs", 1, "max_batch"), 0, r"graphs\[1\].max_batch is 0"),
    (("graphs", 1, "name"), "text_encoder", r"graphs\[1\].name is 'text_encoder' a second time"),
    (("graphs", 0, "file"), "../text.onnx", r'graphs\[0\].file is "../text.onnx"'),
    (
        ("graphs", 0, "inputs", 0, "dtype"),
        "complex64",
        r'graphs\[0\].inputs\[0\].dtype is "complex64"; expected: one of float32, int8',
    ),
    (("graphs", 0, "inputs", 0, "shape"), [-2], r"graphs\[0\].inputs\[0\].shape\[0\] is -2"),
    (("graphs", 0, "inputs", 0, "shape"), [0], "the shape of 'input_ids' in graph 'text_encoder' has a 0"),
    (("files", "weights.bin", "n_bytes"), -1, r'files\["weights.bin"\].n_bytes is -1'),
    (("files", "weights.bin", "sha256"), "abc", r'files\["weights.bin"\].sha256 is "abc"; expected: 64 hex digits'),
    (("lineage",), 5, "lineage is 5; expected: an object"),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG, ids=lambda part: str(part)[:40].encode("ascii", "replace").decode())
def test_a_wrong_value_names_its_field(shipped: Bundle, place: Place, value: Any, message: str) -> None:
    record = json.loads(shipped.path(RECORD).read_text(encoding="utf-8"))
    inner = record
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(BundleInvalidError, match=f"^the record: .*{message}"):
        BundleSpec.from_json(json.dumps(record), "the record")


@given(data=st.data())
def test_any_change_is_valid_or_named(shipped: Bundle, data: st.DataObject) -> None:
    """A valid change has another fingerprint, which is said, or changes nothing that counts."""
    record = json.loads(shipped.path(RECORD).read_text(encoding="utf-8"))
    del record["lineage"], record["format"], record["fingerprint"]
    place = change_one(record, data.draw)
    given = "edited by hand"
    try:
        BundleSpec.from_json(json.dumps({**record, "format": 1}), "the record")
    except BundleInvalidError as exc:
        given = exc.given
    assert "edited by hand" in given or all(name in given for name in names(place))


def test_what_is_written_can_be_read(shipped: Bundle, copy: Path) -> None:
    before = (copy / RECORD).read_bytes()
    with pytest.raises(BundleInvalidError, match="name is"):
        write_record(copy, dataclasses.replace(shipped.spec, name="my bundle"))
    assert (copy / RECORD).read_bytes() == before
    whole: Any = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    spec = dataclasses.replace(shipped.spec, image=dataclasses.replace(shipped.spec.image, **whole))
    assert write_record(copy, spec).spec.fingerprint == load_bundle(copy).spec.fingerprint == spec.fingerprint


def test_a_graph_without_a_file(shipped: Bundle, copy: Path) -> None:
    files = {name: file for name, file in shipped.spec.files.items() if name != "cross_encoder.onnx"}
    (copy / RECORD).write_text(dataclasses.replace(shipped.spec, files=files).to_json(), encoding="utf-8")
    with pytest.raises(BundleInvalidError, match=r"no entry in `files` for cross_encoder\.onnx"):
        load_bundle(copy)


def test_edited_by_hand(copy: Path) -> None:
    record = json.loads((copy / RECORD).read_text(encoding="utf-8"))
    record["dim"] += 1
    (copy / RECORD).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(BundleInvalidError, match="edited by hand"):
        load_bundle(copy)


def test_a_file_outside_the_folder(shipped: Bundle, copy: Path) -> None:
    files = {**shipped.spec.files, "../evil.bin": next(iter(shipped.spec.files.values()))}
    (copy / RECORD).write_text(dataclasses.replace(shipped.spec, files=files).to_json(), encoding="utf-8")
    with pytest.raises(BundleInvalidError, match=r'bundle.json: a name in files is "../evil.bin"; expected: a name of letters'):
        load_bundle(copy)


def test_missing_short_and_damaged_files(copy: Path) -> None:
    tokenizer = copy / TOKENIZER
    content = tokenizer.read_bytes()
    tokenizer.write_bytes(b"x" + content[1:])
    with pytest.raises(BundleInvalidError, match="is damaged"):
        load_bundle(copy).verify()
    tokenizer.write_bytes(content[:100])
    with pytest.raises(BundleInvalidError, match="has 100 bytes; expected"):
        load_bundle(copy)
    tokenizer.unlink()
    with pytest.raises(BundleInvalidError, match="is missing"):
        load_bundle(copy)
