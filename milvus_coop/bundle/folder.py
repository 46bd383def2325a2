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

    @property
    def is_shipped(self) -> bool:
        """True if the bundle is a part of the package, which finds it by the name of its folder."""
        return self.folder.parent == SHIPPED

    def path(self, file: str) -> Path:
        """Path of one of the bundle's files."""
        return self.folder / file

    def verify(self) -> None:
        """Hash every file and compare it with bundle.json (about 0.1 s for 40 MB); check the graphs again.

        Raises:
            BundleInvalidError: the content of a file does not have the hash in bundle.json, or is not allowed.
        """
        for name in self.spec.files:
            check_file(self.folder, self.spec, name)


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

    `NAME@FINGERPRINT` or `FOLDER@FINGERPRINT`, with all 32 digits, opens only that bundle, and hashes every file.

    Everything in the folder may come from a stranger. The record, the places and sizes of the files and the graphs are checked, and
    all files but the weights are hashed, before ONNX Runtime or another library reads them. `Bundle.verify` hashes the weights too.

    Raises:
        InvalidArgumentError: no folder can have that name.
        BundleNotFoundError: there is no such bundle.
        BundleInvalidError: its record is broken, a file is missing, damaged, too large or outside the folder, or a graph has
            operators, inputs, outputs or weights that it must not have.
        BundleMismatchError: the bundle has another fingerprint than the given one.
    """
    folder, fingerprint = find_bundle(name_or_folder)
    spec = read_spec(folder)
    if fingerprint:
        check_fingerprint(spec, fingerprint)
    for name in spec.files:
        check_file(folder, spec, name, hash_weights=bool(fingerprint))
    return Bundle(folder, spec)


def find_bundle(name_or_folder: str | Path) -> tuple[Path, str]:
    """The folder of a bundle, and the fingerprint that was given with it, or ''; see `load_bundle`.

    Raises:
        InvalidArgumentError, BundleNotFoundError: see `load_bundle`.
    """
    if not isinstance(name_or_folder, str | os.PathLike):
        raise InvalidArgumentError(f"the bundle is {quoted(name_or_folder)}", expected="a name or a folder")
    name, at, fingerprint = os.fspath(name_or_folder).rpartition("@")
    if not (at and name and re.fullmatch(FINGERPRINT, fingerprint)):
        name, fingerprint = os.fspath(name_or_folder), ""
    folder = as_path("the bundle", name)
    if name in shipped_bundles():
        folder = SHIPPED / name
    if not os.path.lexists(folder / RECORD):
        raise BundleNotFoundError(
            f"no bundle {quoted(name)}",
            expected=f"a folder with a {RECORD}, or one of: {', '.join(shipped_bundles())}",
            run="milvus-coop bundle list",
        )
    return folder, fingerprint


def check_fingerprint(spec: BundleSpec, fingerprint: str) -> None:
    """Check that a bundle is the one that was asked for.

    Raises:
        BundleMismatchError: it has another fingerprint.
    """
    if spec.fingerprint != fingerprint:
        raise BundleMismatchError(f"the bundle is {spec.label} ({spec.fingerprint})", expected=f"the fingerprint {fingerprint}")


def read_spec(folder: Path) -> BundleSpec:
    """Read bundle.json of a folder and check it. No other file is opened.

    Raises:
        BundleInvalidError: it is broken, describes other graphs than a bundle has, or leaves out a file.
    """
    source = str(folder / RECORD)
    spec = BundleSpec.from_json(read_checked(folder, RECORD, RECORD_BYTES), source)
    check_roles(spec, source)
    needed = [*(graph.file for graph in spec.graphs), *_tokenizers(spec)]
    if missing := [name for name in needed if name not in spec.files]:
        raise BundleInvalidError(f"{source} has no entry in `files` for {missing[0]}", expected=", ".join(needed))
    return spec


def check_file(folder: Path, spec: BundleSpec, name: str, *, hash_weights: bool = True) -> frozenset[str]:
    """Check the place, the size and the hash of a file of a bundle, and what a graph has in it.

    Returns:
        The operators of a graph; empty for other files.

    Raises:
        BundleInvalidError: the file is not what bundle.json says, or may not be in a bundle.
    """
    graph = next((graph for graph in spec.graphs if graph.file == name), None)
    limit = GRAPH_BYTES if graph else TOKENIZER_BYTES if name in _tokenizers(spec) else None
    path, expected = folder / name, spec.files[name]
    if (size := checked_size(folder, name, limit)) != expected.n_bytes:
        raise BundleInvalidError(f"{path} has {size:,} bytes", expected=f"{expected.n_bytes:,}", run="copy the bundle again")
    if limit is None:
        if hash_weights and hash_file(path) != expected:
            raise damaged_error(path)
        return frozenset()
    content = read_checked(folder, name, limit)
    if hash_content(content) != expected:
        raise damaged_error(path)
    return check_graph(content, graph, spec.files, str(path)) if graph else frozenset()


def _tokenizers(spec: BundleSpec) -> tuple[str, ...]:
    return (TOKENIZER,) if spec.ce_text is None else (TOKENIZER, CE_TOKENIZER)


def write_record(folder: Path, spec: BundleSpec) -> Bundle:
    """Hash the graphs, the tokenizers and the weights in `folder` and write bundle.json.

    Args:
        folder: a folder with every graph file of `spec` and tokenizer.json; also ce_tokenizer.json if `spec.ce_text` is set, and
            weights.bin if the graphs have external data.
        spec: the record to write. Its `files` are filled in here.

    Raises:
        BundleInvalidError: a field of the record has a wrong value, and nothing is written; or `load_bundle` refuses the files, for
            example since a graph has an operator that is not in `graphs.OPERATORS`.
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
    return load_bundle(folder)
