"""What the scripts in docs/ write is up to date: the figures in README.md, and the drawing of the packages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "docs" / "figures.py", *options], capture_output=True, text=True)


def test_the_readme_is_what_the_script_writes() -> None:
    done = run("--check")
    assert done.returncode == 0, done.stderr


def test_a_new_bundle_is_written(tmp_path: Path) -> None:
    record = json.loads((ROOT / "milvus_coop" / "bundles" / "coop-small" / "bundle.json").read_text("utf-8"))
    record["version"] = "9.8.7"
    record["tokens"] = {"count": 10, "dim": 128}
    record["metrics"]["test"]["Flickr8k"]["text to image"] = {
        "be": [40.0, 70.0, 80.0, 0.5],
        "coop": [45.0, 75.0, 85.0, 0.6],
        "gain": [5.0, 0.4],
    }
    bundle, page = tmp_path / "bundle.json", tmp_path / "page.md"
    bundle.write_text(json.dumps(record), "utf-8")
    page.write_text("before\n<!-- figures:start -->\nold\n<!-- figures:end -->\nafter\n", "utf-8")
    options = ("--page", page, "--bundle", bundle)
    assert "make docs-figures" in run("--check", *options).stderr
    assert run(*options).returncode == 0
    text = page.read_text("utf-8")
    assert text.startswith("before\n<!-- figures:start -->\nIn coop-small 9.8.7")
    assert text.endswith("<!-- figures:end -->\nafter\n")
    assert all(figure in text for figure in ("**1,300 bytes**", "40.0 ± 0.5 %", "45.0 ± 0.6 %", "+5.0 ± 0.4"))
    assert "old" not in text
    assert run("--check", *options).returncode == 0


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n", "utf-8")
    done = run("--page", page)
    assert done.returncode == 1
    assert "figures:start" in done.stderr


def sizes(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "docs" / "sizes.py", *options], capture_output=True, text=True)


def test_the_sizes_are_what_the_script_writes(tmp_path: Path) -> None:
    done = sizes("--check")
    assert done.returncode == 0, done.stderr
    page = tmp_path / "page.md"
    page.write_text("<!-- sizes:start -->\nold\n<!-- sizes:end -->\n", "utf-8")
    assert "make docs-figures" in sizes("--check", "--page", page).stderr
    assert sizes("--page", page).returncode == 0
    assert page.read_text("utf-8").split("-->\n")[1].rstrip("<!- ") in (ROOT / "docs" / "operations.md").read_text("utf-8")


def test_the_arithmetic_of_the_sizes() -> None:
    """The naive version, of some cells."""
    table = sizes("--images-per-gpu-second", "500", "--gpus", "4", "--price-gpu-hour", "2", "--price-1000-reads", "0.5").stdout
    cells = {row[1].strip(): [cell.strip() for cell in row[3:-1]] for line in table.splitlines() if (row := line.split("|"))}
    bundle = json.loads((ROOT / "milvus_coop" / "bundles" / "coop-small" / "bundle.json").read_text("utf-8"))
    vectors = 500e6 * bundle["dim"] * 4
    assert cells[f"embeddings, {bundle['dim']} dimensions"][-1] == f"{vectors / 1e12:.1f} TB"
    assert cells["HNSW index"][-1] == f"{(vectors + 500e6 * 2 * 16 * 4) / 1e12:.1f} TB"
    assert cells["GPU hours to encode"] == ["0.6", "5.6", "56", "278"]
    assert cells["hours on 4 GPUs"] == ["0.1", "1.4", "14", "69"]
    assert cells["cost of the GPUs"][-1] == "556"
    assert cells["cost of the requests, an object for each image"][-1] == f"{500e6 * 1.001 / 1000 * 0.5:,.0f}"
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    per_core = next(line for line in table.splitlines() if "core hours to ingest" in line).split("|")[2].split()[2]
    assert f"replaces R / {per_core} cores" in page
    assert f"less than R / {per_core} times" in page
    assert f"| N / {per_core} / 3,600 x price of a core" in page
    growth = (ROOT / "docs" / "growth.md").read_text("utf-8")
    hours = round(1e9 / float(per_core) / 3600, -2)
    assert f"1 billion images takes {hours:,.0f} core hours at {per_core} images/s per core" in growth
    assert f"**Milvus may be the limit.** {cells['hours to insert, one server'][-1]} hours" in page
    assert cells["requests, shards"][0] == "47,684", "1,000,000 x 200,000 B / 4 MiB, and one more"


def test_other_pages_have_the_rates_of_the_cross_encoder() -> None:
    performance, operations, pretrained = (
        (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("performance", "operations", "pretrained")
    )
    rates = re.findall(r"^\| cross-encoder (?:in process|through).*?\| ([\d,]+) pairs/s", performance, re.MULTILINE)
    in_process, on_triton = (int(rate.replace(",", "")) for rate in rates)
    assert f"reaches {in_process:,} pairs/s per core in process and {on_triton:,} through a local Triton" in operations
    assert f"answers {on_triton / 50:,.0f} to {in_process / 50:,.0f} queries/s" in operations
    assert f"| {1000 / in_process:.3f} on one core" in pretrained


def test_the_house_is_what_the_code_imports(tmp_path: Path) -> None:
    house = [sys.executable, str(ROOT / "docs" / "house.py"), "--check"]
    assert subprocess.run(house, capture_output=True, text=True).stderr == ""
    (tmp_path / "old.svg").write_text("<svg/>", "utf-8")
    assert "make house" in subprocess.run([*house, "--out", tmp_path / "old.svg"], capture_output=True, text=True).stderr
