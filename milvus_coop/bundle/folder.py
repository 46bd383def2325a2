"""Bundles on disk: find a bundle by name or folder, read it, check it, and write its record."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from milvus_coop.arguments import as_path
from milvus_coop.bundle.spec import NAME, NAME_RULE, BundleSpec, FileSpec
from milvus_coop.errors import BundleInvalidError, BundleNotFoundError, InvalidArgumentError, MilvusCoopError, quoted

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

    def verify(self) -> None:
        """Hash every file and compare it with bundle.json (about 0.1 s for 40 MB).

        Raises:
            BundleInvalidError: the content of a file does not have the hash in bundle.json.
        """
        for name, expected in self.spec.files.items():
            if hash_file(self.path(name)).sha256 != expected.sha256:
                raise BundleInvalidError(
                    f"{self.path(name)} is damaged: its content hash is not the one in {RECORD}", run="reinstall the bundle"
                )


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

    Raises:
        InvalidArgumentError: no folder can have that name.
        BundleNotFoundError: there is no such bundle.
        BundleInvalidError: its record is broken, or a file is missing or has the wrong size.
    """
    if not isinstance(name_or_folder, str | os.PathLike):
        raise InvalidArgumentError(f"the bundle is {quoted(name_or_folder)}", expected="a name or a folder")
    folder = as_path("the bundle", name_or_folder)
    is_name = str(name_or_folder) in shipped_bundles()
    if is_name:
        folder = SHIPPED / str(name_or_folder)
    record = folder / RECORD
    if not record.is_file():
        raise BundleNotFoundError(
            f"no bundle {quoted(str(name_or_folder))}",
            expected=f"a folder with a {RECORD}, or one of: {', '.join(shipped_bundles())}",
            run="milvus-coop bundle list",
        )
    spec = BundleSpec.from_json(record.read_text(encoding="utf-8"), source=str(record))
    if unknown := [graph for graph in spec.graphs if graph.file not in spec.files]:
        raise BundleInvalidError(f"{record} has no entry in `files` for {unknown[0].file}", expected=", ".join(spec.files))
    for name, expected in spec.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleInvalidError(f"{path} is missing", run="copy the whole bundle folder again")
        if path.stat().st_size != expected.n_bytes:
            raise BundleInvalidError(
                f"{path} has {path.stat().st_size:,} bytes", expected=f"{expected.n_bytes:,}", run="copy the bundle again"
            )
    return Bundle(folder, spec)


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
    record.write_text(text, encoding="utf-8")
    return Bundle(folder, spec)


def hash_file(path: Path) -> FileSpec:
    """Size and SHA-256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileSpec(n_bytes=path.stat().st_size, sha256=digest.hexdigest())
