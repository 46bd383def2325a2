"""Bundles on disk: find a bundle by name or folder, read it, check it, and write its record."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

from milvus_coop.arguments import as_path
from milvus_coop.bundle.files import (
    GRAPH_BYTES,
    RECORD_BYTES,
    TOKENIZER_BYTES,
    checked_size,
    damaged_error,
    hash_content,
    hash_file,
    read_checked,
)
from milvus_coop.bundle.graphs import check_graph
from milvus_coop.bundle.roles import check_roles
from milvus_coop.bundle.spec import FINGERPRINT, NAME, NAME_RULE, BundleSpec
from milvus_coop.errors import (
    BundleInvalidError,
    BundleMismatchError,
    BundleNotFoundError,
    InvalidArgumentError,
    MilvusCoopError,
    quoted,
)

RECORD = "bundle.json"
TOKENIZER = "tokenizer.json"
CE_TOKENIZER = "ce_tokenizer.json"
WEIGHTS = "weights.bin"
SHIPPED = Path(__file__).resolve().parent.parent / "bundles"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk: its folder, and `spec`, the content of its bundle.json."""

    folder: Path
    spec: BundleSpec

    def path(self, file: str) -> Path:
        """Path of one of the bundle's files."""
        return self.folder / file

    def damaged(self) -> list[str]:
        """Hash every file (about 0.1 s for 40 MB); the names of those whose content is not the one that bundle.json describes.

        Raises:
            BundleInvalidError: a file cannot be read.
        """
        for name in self.spec.files:
            checked_size(self.folder, name)
        return [name for name, expected in self.spec.files.items() if hash_file(self.path(name)) != expected]

    def verify(self) -> None:
        """Hash every file, as in `damaged`.

        Raises:
            BundleInvalidError: the content of a file does not have the hash in bundle.json, or cannot be read.
        """
        if names := self.damaged():
            raise damaged_error(self.path(names[0]))


def shipped_bundles() -> list[str]:
    """Names of the bundles inside the package, sorted."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{RECORD}"))


def check_new_bundle(folder: Path, name: str, error: type[MilvusCoopError]) -> None:
    """Check the folder and the name of a new bundle before the work on it begins.

    Raises:
        MilvusCoopError: the folder exists, or the name cannot name a bundle. It is an `error`.
    """
    if os.path.lexists(folder):  # true also for a broken link
        raise error(f"{folder} exists", expected="a folder that is not there yet", run=f"rm -r {folder}, or another --out")
    if not re.fullmatch(NAME, name):
        raise error(f"'{name}' cannot name a bundle", expected=NAME_RULE, run="--name NAME")


def load_bundle(name_or_folder: str | Path) -> Bundle:
    """Open a bundle by its folder, or a shipped bundle by its name.

    `NAME@FINGERPRINT` or `FOLDER@FINGERPRINT`, with all 32 digits, opens that bundle only: every file is hashed.

    Everything in the folder may come from a stranger. The record, the places and sizes of the files and the graphs are checked, and
    all files but the weights are hashed, before ONNX Runtime or another library reads them; `Bundle.verify` hashes the weights too.

    Raises:
        InvalidArgumentError: no folder can have that name.
        BundleNotFoundError: there is no such bundle.
        BundleInvalidError: its record is broken, a file is missing, damaged, too large or outside the folder, or a graph has
            operators, inputs, outputs or weights that it must not have.
        BundleMismatchError: the bundle has another fingerprint than the given one.
    """
    if not isinstance(name_or_folder, str | os.PathLike):
        raise InvalidArgumentError(f"the bundle is {quoted(name_or_folder)}", expected="a name or a folder")
    name, fingerprint = split_pin(os.fspath(name_or_folder))
    bundle = _open(as_path("the bundle", name), name)
    if fingerprint:
        check_fingerprint(bundle.spec, fingerprint)
        bundle.verify()
    return bundle


def split_pin(text: str) -> tuple[str, str]:
    """A bundle's name or folder, and its fingerprint where one is given: `NAME@FINGERPRINT`. '' stands for none."""
    name, at, fingerprint = text.rpartition("@")
    return (name, fingerprint) if at and name and re.fullmatch(FINGERPRINT, fingerprint) else (text, "")


def check_fingerprint(spec: BundleSpec, fingerprint: str) -> None:
    """Check that a bundle is the one that was asked for.

    Raises:
        BundleMismatchError: it has another fingerprint.
    """
    if spec.fingerprint != fingerprint:
        raise BundleMismatchError(f"the bundle is {spec.label} ({spec.fingerprint})", expected=f"the fingerprint {fingerprint}")


def _open(folder: Path, name: str) -> Bundle:
    if name in shipped_bundles():
        folder = SHIPPED / name
    record = folder / RECORD
    if not os.path.lexists(record):
        raise BundleNotFoundError(
            f"no bundle {quoted(name)}",
            expected=f"a folder with a {RECORD}, or one of: {', '.join(shipped_bundles())}",
            run="milvus-coop bundle list",
        )
    spec = BundleSpec.from_json(read_checked(folder, RECORD, RECORD_BYTES), source=str(record))
    check_roles(spec, str(record))
    _check_files(folder, spec)
    return Bundle(folder, spec)


def _check_files(folder: Path, spec: BundleSpec) -> None:
    graphs = {graph.file: graph for graph in spec.graphs}
    tokenizers = [TOKENIZER] if spec.ce_text is None else [TOKENIZER, CE_TOKENIZER]
    if unknown := [name for name in (*graphs, *tokenizers) if name not in spec.files]:
        raise BundleInvalidError(
            f"{folder / RECORD} has no entry in `files` for {unknown[0]}",
            expected=f"an entry for {', '.join((*graphs, *tokenizers))}",
        )
    for name, expected in spec.files.items():
        path = folder / name
        limit = GRAPH_BYTES if name in graphs else TOKENIZER_BYTES if name in tokenizers else None
        if (size := checked_size(folder, name, limit)) != expected.n_bytes:
            raise BundleInvalidError(f"{path} has {size:,} bytes", expected=f"{expected.n_bytes:,}", run="copy the bundle again")
        if limit is None:
            continue
        content = read_checked(folder, name, limit)
        if hash_content(content) != expected:
            raise damaged_error(path)
        if name in graphs:
            check_graph(content, graphs[name], spec.files, str(path))


def write_record(folder: Path, spec: BundleSpec) -> Bundle:
    """Hash the graphs, the tokenizers and the weights in `folder` and write bundle.json.

    Args:
        folder: a folder with every graph file of `spec` and tokenizer.json; also ce_tokenizer.json if `spec.ce_text` is set, and
            weights.bin if the graphs have external data.
        spec: the record to write. Its `files` are filled in here.

    Raises:
        BundleInvalidError: a field of the record has a wrong value. Nothing is written.
    """
    names = [graph.file for graph in spec.graphs] + [TOKENIZER]
    if spec.ce_text is not None:
        names.append(CE_TOKENIZER)
    if (folder / WEIGHTS).exists():
        names.append(WEIGHTS)
    record = folder / RECORD
    text = dataclasses.replace(spec, files={name: hash_file(folder / name) for name in names}).to_json()
    spec = BundleSpec.from_json(text, source=str(record))
    check_roles(spec, str(record))
    record.write_text(text, encoding="utf-8")
    return Bundle(folder, spec)
