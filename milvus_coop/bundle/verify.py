"""Checks all of a bundle and lists everything that does not match, for a bundle that someone else made or copied."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from milvus_coop.bundle.folder import check_file, check_fingerprint, find_bundle, read_spec
from milvus_coop.bundle.spec import FINGERPRINT
from milvus_coop.errors import BundleError, InvalidArgumentError, quoted


@dataclass(slots=True)
class Verified:
    """The result of checking a bundle. The bundle is whole and allowed if there are no `problems`."""

    folder: str
    label: str = ""
    """Name and version; '' if bundle.json cannot be used."""
    fingerprint: str = ""
    """Computed from bundle.json, which has the hash of every file."""
    files: dict[str, bool] = field(default_factory=dict)
    """True for files that have the hash in bundle.json and may be in a bundle."""
    operators: dict[str, list[str]] = field(default_factory=dict)
    """The operators of each graph that is allowed, by its file."""
    problems: list[str] = field(default_factory=list)


def verify_bundle(name_or_folder: str | Path, fingerprint: str = "") -> Verified:
    """Hash every file and check every graph. Nothing is run.

    Args:
        name_or_folder: see `load_bundle`.
        fingerprint: the fingerprint that the bundle should have; '' if any is right.

    Raises:
        InvalidArgumentError: `fingerprint` is no fingerprint, or no folder can have that name.
        BundleNotFoundError: there is no such bundle.
    """
    if fingerprint and not re.fullmatch(FINGERPRINT, fingerprint):
        raise InvalidArgumentError(f"the fingerprint is {quoted(fingerprint)}", expected="32 hex digits")
    folder, pinned = find_bundle(name_or_folder)
    found = Verified(str(folder))
    try:
        spec = read_spec(folder)
    except BundleError as exc:
        found.problems.append(str(exc))
        return found
    found.label, found.fingerprint = spec.label, spec.fingerprint
    for wanted in filter(None, (pinned, fingerprint)):
        try:
            check_fingerprint(spec, wanted)
        except BundleError as exc:
            found.problems.append(str(exc))
    for name in spec.files:
        try:
            operators = check_file(folder, spec, name)
        except BundleError as exc:
            found.problems.append(str(exc))
            found.files[name] = False
        else:
            found.files[name] = True
            found.operators |= {name: sorted(operators)} if operators else {}
    return found
