"""Draw the packages and who imports whom, from the code: `make house` writes docs/house.svg.

An arrow that follows from others is left out; `errors`, `types` and `config` are imported by all and have no arrows. `--before
REVISION` draws the package of an earlier commit beside today's. `--check` writes nothing and fails where the drawing says
something else.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DRAWING = ROOT / "docs" / "house.svg"
PACKAGE = "milvus_coop"
BASE = {"errors", "types", "config", "", "__main__"}
"""Imported by all, or only the door: without arrows."""
WINGS = {
    "serving": {"gallery", "gateway", "integrations", "plans", "triton"},
    "online": set[str](),
    "offline": {"convert", "datasets", "evaluation", "export", "training"},
}
"""The packages of each wing, from left to right, by the last part of their name. Online is what is in no other."""
COLOURS = {"serving": "#dbeafe", "online": "#dcfce7", "offline": "#fef3c7"}
WITHOUT_COLOUR = {"cli", "bundle"}
FONT = 'font-family="Helvetica, Arial, DejaVu Sans, sans-serif"'
BOX, GAP, ROW = (128, 34), 16, 74

Imports = Mapping[str, set[str]]


def sources(revision: str) -> Iterator[tuple[str, str]]:
    """Path and text of every module of the package, as it lies on disk or (with a revision) in git."""
    if not revision:
        for path in sorted((ROOT / PACKAGE).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
        return
    for name in git("ls-tree", "-r", "--name-only", revision, f"{PACKAGE}/").splitlines():
        if name.endswith(".py"):
            yield name, git("show", f"{revision}:{name}")


def git(*arguments: str) -> str:
    """The output of a git command in this repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607


def package_of(module: str) -> str:
    """The package of a module by its full name: `milvus_coop.serving.gateway.pool` belongs to `serving/gateway`."""
    _, *inside = module.split(".")
    return "/".join(inside[: 2 if inside and inside[0] in WINGS else 1])


def imports(revision: str = "") -> dict[str, set[str]]:
    """The packages that each package imports, but for those of the base."""
    found: dict[str, set[str]] = defaultdict(set)
    for path, text in sources(revision):
        here = package_of(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        if here in BASE | set(WINGS):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
                names = [node.module] if node.module != PACKAGE else [f"{PACKAGE}.{alias.name}" for alias in node.names]
                found[here] |= {package_of(name) for name in names} - BASE - {here}
        found[here] |= set()
    return {name: {other for other in others if other in found} for name, others in found.items()}


def levels(graph: Imports) -> dict[str, int]:
    """The row of each package: above all that it imports, and then as near to those that import it as can be."""
    found: dict[str, int] = {}

    def level(name: str, above: tuple[str, ...] = ()) -> int:
        if name not in found:
            below = [level(other, (*above, name)) for other in sorted(graph[name]) if other not in above]
            found[name] = max(below, default=-1) + 1
        return found[name]

    for name in sorted(graph):
        level(name)
    for name in sorted(graph, key=lambda name: -found[name]):
        if above := [found[other] for other in graph if name in graph[other] and found[other] > found[name]]:
            found[name] = min(above) - 1
    return found


def reach(graph: Imports, start: str) -> set[str]:
    """Every package that `start` imports, directly or through others."""
    seen: set[str] = set()
    left = [*graph[start]]
    while left:
        if (name := left.pop()) not in seen:
            seen.add(name)
            left += graph[name]
    return seen


def draw(graph: Imports, title: str, left: int) -> tuple[str, int, int]:
    """The drawing of one package as SVG, with its width and height."""
    level = levels(graph)
    rows = [[name for name in graph if level[name] == number] for number in range(max(level.values()) + 1)]
    column = {name: float(wing_of(name)) for name in graph}
    for _ in range(4):  # each package moves to the middle of those that it imports or that import it, within its wing
        for row in rows:
            near = {n: [column[o] for o in graph if o in graph[n] or n in graph[o]] or [column[n]] for n in row}
            row.sort(key=lambda name: (wing_of(name), sum(near[name]) / len(near[name]), name))
            for place, name in enumerate(row):
                column[name] = place - (len(row) - 1) / 2
    width = max(len(row) for row in rows) * (BOX[0] + GAP) + GAP
    height = 84 + len(rows) * ROW
    middle = {name: (left + width / 2 + column[name] * (BOX[0] + GAP), 70 + (len(rows) - 1 - level[name]) * ROW) for name in graph}
    parts = [f'<text x="{left + GAP}" y="30" class="head">{title}</text>']
    for name in sorted(graph):
        follows = set().union(*(reach(graph, other) for other in graph[name]))
        for other in sorted(graph[name] - follows):
            (x, y), (to_x, to_y) = middle[name], middle[other]
            start, end = y + BOX[1] / 2, to_y - BOX[1] / 2
            parts.append(
                f'<path d="M{x:.0f} {start:.0f} C{x:.0f} {start + 30:.0f} {to_x:.0f} {end - 30:.0f} {to_x:.0f} {end:.0f}"/>'
            )
    for name, (x, y) in sorted(middle.items()):
        colour = "#f1f5f9" if name in WITHOUT_COLOUR else [*COLOURS.values()][wing_of(name)]
        box = f'x="{x - BOX[0] / 2:.0f}" y="{y - BOX[1] / 2:.0f}" width="{BOX[0]}" height="{BOX[1]}"'
        parts.append(f'<rect {box} rx="7" fill="{colour}"/><text x="{x:.0f}" y="{y + 4:.0f}" class="name">{name}</text>')
    parts.append(f'<text x="{left + GAP}" y="{height - 16}" class="small">below all: config, errors, types</text>')
    for place, (wing, colour) in enumerate(COLOURS.items()):
        x, y = left + width - (3 - place) * 90, height - 28
        parts.append(f'<rect x="{x}" y="{y}" width="14" height="14" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="{y + 12}" class="small">{wing}</text>')
    return "\n".join(parts), width, height


def wing_of(name: str) -> int:
    """The place of a package's wing from left to right."""
    return next((place for place, names in enumerate(WINGS.values()) if name.split("/")[-1] in names), 1)


def drawing(before: str = "") -> str:
    """The whole drawing."""
    drawn: list[str] = []
    width = height = 0
    for title, revision in [*([(f"before, at {before}", before)] if before else []), (f"{PACKAGE}: who imports whom", "")]:
        text, wide, high = draw(imports(revision), title, width)
        drawn, width, height = [*drawn, text], width + wide, max(height, high)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT}>
<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L10 5 L0 10 z" style="fill:#64748b;stroke:none"/></marker>
<style>rect {{ stroke: #64748b; }} path {{ fill: none; stroke: #64748b; marker-end: url(#arrow); }}
.head {{ font-size: 15px; font-weight: bold; fill: #0f172a; }} .name {{ font-size: 12px; text-anchor: middle; fill: #0f172a; }}
.small {{ font-size: 12px; fill: #475569; }}</style></defs>
<rect width="{width}" height="{height}" rx="12" fill="#ffffff" style="stroke:none"/>
{chr(10).join(drawn)}
</svg>
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the drawing, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Only compare; exit code 1 if the drawing differs.")
    parser.add_argument("--before", default="", metavar="REVISION", help="A commit whose package is drawn beside today's.")
    parser.add_argument("--out", type=Path, default=DRAWING, help="The file that is written; default docs/house.svg.")
    asked = parser.parse_args(arguments)
    after = drawing(asked.before)
    if not asked.check:
        asked.out.write_text(after, "utf-8")
    elif asked.out.read_text("utf-8") != after:
        sys.exit(f"{asked.out} differs from what the code imports. Run: make house")


if __name__ == "__main__":
    main()
