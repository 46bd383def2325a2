"""What the scripts in docs/ write is up to date: the figures in README.md, and the drawing of the packages."""

from __future__ import annotations

import json
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


def test_the_house_is_what_the_code_imports(tmp_path: Path) -> None:
    house = [sys.executable, str(ROOT / "docs" / "house.py"), "--check"]
    assert subprocess.run(house, capture_output=True, text=True).stderr == ""
    (tmp_path / "old.svg").write_text("<svg/>", "utf-8")
    assert "make house" in subprocess.run([*house, "--out", tmp_path / "old.svg"], capture_output=True, text=True).stderr
