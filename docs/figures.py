"""Write the figures of the shipped bundle into README.md, from the metrics in its `bundle.json`: `make docs-figures`.

The text between the two marks of the page is replaced. `--check` writes nothing and fails where the page says something else.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "milvus_coop" / "bundles" / "coop-small" / "bundle.json"
PAGE = ROOT / "README.md"
MARKED = re.compile(r"(<!-- figures:start -->\n).*?(<!-- figures:end -->)", re.DOTALL)
TEST_SET = "Flickr8k"
SCALE_BYTES = 2
"""Each token is stored as int8 with one scale in half precision."""


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Only compare; exit code 1 if the page differs.")
    parser.add_argument("--page", type=Path, default=PAGE, help="The page that is written; default README.md.")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="The bundle.json that is read; default coop-small's.")
    asked = parser.parse_args()
    before = asked.page.read_text("utf-8")
    if not MARKED.search(before):
        sys.exit(f"{asked.page} has no <!-- figures:start --> and <!-- figures:end -->. Expected: both, each on a line of its own.")
    text = figures(json.loads(asked.bundle.read_text("utf-8")))
    after = MARKED.sub(lambda marks: marks[1] + text + marks[2], before)
    if asked.check and after != before:
        sys.exit(f"{asked.page} differs from the metrics of {asked.bundle}. Run: make docs-figures")
    if not asked.check:
        asked.page.write_text(after, "utf-8")


def figures(record: dict[str, Any]) -> str:
    """The two sentences about the bundle of this record, as Markdown.

    The metrics of a direction are `be` and `coop`, each R@1, R@5, R@10 and the standard error of R@1, and `gain`, the difference of
    both R@1 and its standard error; all in percent.
    """
    name = f"{record['name']} {record['version']}"
    tokens = record["tokens"]["count"] * (record["tokens"]["dim"] + SCALE_BYTES)
    test = record["metrics"]["test"][TEST_SET]
    found = test["text to image"]
    be, coop = (f"{found[system][0]:.1f} ± {found[system][3]:.1f} %" for system in ("be", "coop"))
    gain = f"{found['gain'][0]:+.1f} ± {found['gain'][1]:.1f}"
    return (
        f"In {name}, the tokens of an image take **{tokens:,} bytes**. On {TEST_SET}'s test split ({test['images']:,} images,\n"
        f"{test['texts']:,} texts), the right image comes first for {be} of the texts with the bi-encoder alone, and for {coop}\n"
        f"with Coop: a difference of {gain} points (± standard error).\n"
    )


if __name__ == "__main__":
    main()
