"""The bundle record and the folder: what is written is read, and damage is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from milvus_coop.bundle import BundleSpec, load_bundle, shipped_bundles, write_record
from milvus_coop.bundle.folder import RECORD, TOKENIZER, Bundle
from milvus_coop.errors import BundleInvalidError, BundleNotFoundError


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
        ("not json", "not a valid bundle record"),
        ("[]", "not a valid bundle record"),
        ("{}", "not a valid bundle record"),
        ('{"format": 99}', "format 99; expected: format 1; try: pip install -U"),
        ('{"format": 1}', "KeyError"),
    ],
)
def test_broken_records(copy: Path, content: str, message: str) -> None:
    (copy / RECORD).write_text(content, encoding="utf-8")
    with pytest.raises(BundleInvalidError, match=message):
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
    with pytest.raises(BundleInvalidError, match="expected: a plain file name"):
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
