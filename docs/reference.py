"""Write docs/reference.md, the list of all settings and errors, from the code: `make docs-figures`.

`--check` writes nothing and fails where the page says something else.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from milvus_coop import config, errors
from milvus_coop.serving.gateway import options, problems

PAGE = Path(__file__).resolve().parent / "reference.md"
HEAD = """\
# Reference: settings and errors

<!-- Written by docs/reference.py; run `make docs-figures` after a change of the code. -->

## Settings

Every field of `Settings` is an argument of `CoopSearch` and `CoopIngest`, and an environment variable.

{settings}
## Options of the service

These options of `milvus-coop serve` are environment variables; some are also arguments of the command.
The parts of a list are separated by commas.

{serve}
## Errors

Every error that milvus-coop raises on purpose is a `MilvusCoopError` from `milvus_coop.errors`. Its message says what was given,
what was expected, and what to run. The same three parts are the attributes `given`, `expected` and `run`. A command prints the
message in one line and ends with the exit code 2. The service answers with the HTTP status.

{errors}"""


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Only compare; exit code 1 if the page differs.")
    parser.add_argument("--page", type=Path, default=PAGE, help="The page that is written; default docs/reference.md.")
    asked = parser.parse_args()
    text = HEAD.format(
        settings=settings(config.Settings, config.PREFIX),
        serve=settings(options.GatewayOptions, options.PREFIX),
        errors=table(("error", "also a", "status", "meaning"), error_rows(errors.MilvusCoopError)),
    )
    if not asked.check:
        asked.page.write_text(text, "utf-8")
    elif not asked.page.exists() or asked.page.read_text("utf-8") != text:
        sys.exit(f"{asked.page} differs from the code. Run: make docs-figures")


def settings(record: type[Any], prefix: str) -> str:
    """The table of a record's fields: name, variable, default, meaning."""
    meanings = dict(documented(record))
    rows = [(f"`{f.name}`", f"`{prefix}{f.name.upper()}`", default_of(f), meanings.get(f.name, "")) for f in fields(record)]
    return table(("field", "variable", "default", "meaning"), rows)


def documented(record: type[Any]) -> Iterator[tuple[str, str]]:
    """The fields of a class that have a docstring below them, each with that docstring in one line."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(record)).body if isinstance(node, ast.ClassDef))
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            yield ast.unparse(field.target), " ".join(str(text.value.value).split())


def default_of(field: Field[Any]) -> str:
    """The default of a field, as a reader would write it in the environment."""
    value = field.default
    if value is MISSING or value in ("", (), None):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def error_rows(kind: type[Exception], depth: int = 0) -> Iterator[tuple[str, ...]]:
    """An error class and those below it, each with its other base class, its HTTP status and its meaning."""
    others = ", ".join(f"`{base.__name__}`" for base in kind.__bases__ if not base.__module__.startswith("milvus_coop"))
    meaning = (inspect.getdoc(kind) or "").split("\n\n")[0]
    status = next(int(status) for error, status in problems.STATUS if issubclass(kind, error))
    yield "&emsp;" * depth + f"`{kind.__name__}`", "" if others == "`Exception`" else others, str(status), meaning
    for below in kind.__subclasses__():
        yield from error_rows(below, depth + 1)


def table(head: tuple[str, ...], rows: Any) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
