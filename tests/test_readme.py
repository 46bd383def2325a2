"""The README's code is run: every `python` block and every `milvus-coop` line, in order, in one folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
MAKE = [line.split() for language, block in BLOCKS for line in block.splitlines() if language == "sh" and line.startswith("make")]
PICTURES = ("dog.jpg", "two_dogs.jpg", "cat.jpg", "apple.jpg", "coffee.jpg", "bicycle.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's reader has: `photos/`, `photo.jpg`, `captions.txt` and a list with metadata."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    for name in PICTURES:
        shutil.copy(ROOT / "examples" / "images" / name, folder / "photos" / name)
    shutil.copy(ROOT / "examples" / "images" / "dog.jpg", folder / "photo.jpg")
    shutil.copy(ROOT / "examples" / "captions.txt", folder / "captions.txt")
    lines = [f'{{"path": "photos/{name}", "year": {2018 + i}, "author": "me"}}\n' for i, name in enumerate(PICTURES)]
    (folder / "catalogue.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**{k: v for k, v in os.environ.items() if not k.startswith("MILVUS_COOP_")}, "PATH": path}


def test_blocks_are_of_known_languages() -> None:
    assert {language for language, _ in BLOCKS} <= {"sh", "python", "text"}
    assert MAKE == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("command", MAKE, ids=" ".join)
def test_make_targets_exist(command: list[str]) -> None:
    """`.ci/run` runs them; here they are only resolved, since one of them runs this test."""
    subprocess.run([command[0], "--dry-run", *command[1:]], cwd=ROOT, check=True, capture_output=True)


def test_python_blocks(folder: Path, environment: dict[str, str]) -> None:
    code = "\n".join(block for language, block in BLOCKS if language == "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = next(line for line in done.stdout.splitlines() if line.startswith("1 "))
    assert "dog" in first
    assert "True" in done.stdout


def test_commands(folder: Path, environment: dict[str, str]) -> None:
    lines = [
        line for language, block in BLOCKS if language == "sh" for line in block.splitlines() if line not in map(" ".join, MAKE)
    ]
    assert len(lines) > 10
    for line in lines:
        assert line.startswith("milvus-coop "), line
        done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
