"""Prints pip constraints with the lowest versions that pyproject.toml allows: `python -m tests.lowest EXTRA ...`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(extras: Iterable[str]) -> Iterator[Requirement]:
    """What the package requires on this machine, alone and with extras."""
    optional = PROJECT["optional-dependencies"]
    for line in (*PROJECT["dependencies"], *(line for extra in extras for line in optional[extra])):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def main() -> None:
    """Print one line for each requirement that has a lower bound."""
    for requirement in requirements(sys.argv[1:]):
        for bound in requirement.specifier:
            if bound.operator in (">=", "=="):
                sys.stdout.write(f"{requirement.name}=={bound.version}\n")


if __name__ == "__main__":
    main()
