"""docs/milvus.md is run: its commands and its Python, in order, in one folder, with the service on a free port."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.servers.milvus import free_ports

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs" / "milvus.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
SERVE = "milvus-coop serve --models-only"


def test_the_page(tmp_path: Path) -> None:
    images = ROOT / "examples" / "images"
    (tmp_path / "photos").mkdir()
    for name in ("dog.jpg", "cat.jpg", "apple.jpg", "coffee.jpg", "bicycle.png"):
        shutil.copy(images / name, tmp_path / "photos" / name)
    shutil.copy(images / "dog.jpg", tmp_path / "photo.jpg")
    shutil.copy(ROOT / "examples" / "captions.txt", tmp_path / "captions.txt")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    (port,) = free_ports(1)
    commands = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    assert commands.pop() == SERVE
    for command in commands:
        subprocess.run(command.split(), cwd=tmp_path, env=environment, check=True, capture_output=True)
    serve = [*SERVE.split(), "--port", str(port)]
    with subprocess.Popen(serve, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert f"serves http://127.0.0.1:{port}" in process.stderr.readline()
            printed = [
                run(block.replace(":8080", f":{port}"), tmp_path, environment) for language, block in BLOCKS if language == "python"
            ]
        finally:
            process.send_signal(signal.SIGINT)
            process.stderr.read()
    by_ranker, by_hand = printed
    score, uri = by_ranker[0].split(maxsplit=1)
    assert uri.endswith("photos/dog.jpg")
    assert 0 < float(score) < 1
    assert by_hand[0] == "True"
    assert len(by_hand) == 4


def run(code: str, folder: Path, environment: dict[str, str]) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
