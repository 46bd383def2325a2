"""The docs are run: every `python` block and `milvus-coop` line of the README and of docs/, in order, a folder for each page.

A page is named by its path from the repository's root.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path

import pytest

from tests.convert.checkpoints import blip, clip, vilt
from tests.servers.milvus import free_ports

ROOT = Path(__file__).parent.parent
ELSEWHERE = ROOT / "docs" / "milvus.md"
"""Its Python needs its commands' service: tests/gateway/rerank/test_docs.py runs both."""
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {ELSEWHERE})]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = {name: re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for name, text in TEXTS.items()}
LINES = {
    name: [line for language, block in blocks if language == "sh" for line in block.splitlines()] for name, blocks in BLOCKS.items()
}
SEARCHES = ("README.md", "docs/integrations.md", "docs/search.md")
"""Pages whose Python blocks print what a search for a dog finds."""
PYTHON = {
    name: code
    for name, blocks in BLOCKS.items()
    if (code := "\n".join(block for language, block in blocks if language == "python"))
}
SHOWN = BLOCKS["README.md"][next(i for i, (language, _) in enumerate(BLOCKS["README.md"]) if language == "python") + 1][1]
"""The output that the README shows below its Python."""
MAKE = [line.split() for lines in LINES.values() for line in lines if line.startswith("make")]
CHECKPOINTS = {"blip-itm-base-coco": blip, "clip-vit-base-patch32": clip, "vilt-b32-finetuned-coco": vilt}
"""What the docs convert, tiny and with random weights: there is no hub to download from. Only a page that names one gets it."""
IMAGES = ("dog.jpg", "two_dogs.jpg", "cat.jpg", "apple.jpg", "coffee.jpg", "bicycle.png")


@pytest.fixture
def folder(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader: samples, `photos/`, `photo.jpg`, `captions.txt`, lists with metadata and captions, checkpoints."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "photos").mkdir()
    for name in IMAGES:
        shutil.copy(ROOT / "examples" / "images" / name, folder / "photos" / name)
    shutil.copy(ROOT / "examples" / "images" / "dog.jpg", folder / "photo.jpg")
    shutil.copy(ROOT / "examples" / "captions.txt", folder / "captions.txt")
    lines = [f'{{"path": "photos/{name}", "year": {2018 + i}, "author": "me"}}\n' for i, name in enumerate(IMAGES)]
    (folder / "catalogue.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "captions.jsonl").write_text("".join(_captioned()), encoding="utf-8")
    for name, make in CHECKPOINTS.items():
        if name in TEXTS[page]:
            make(folder / name)
    return folder


def _captioned() -> Iterator[str]:
    """The sample images with their names as captions."""
    for position, path in enumerate(sorted((ROOT / "examples" / "images").glob("*.[jp][pn]g"))):
        split = ("dev", "test", "train", "train")[position % 4]
        caption = f"a {path.stem.replace('_', ' ')}"
        yield json.dumps({"image": str(path), "captions": [caption], "split": split}) + "\n"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = {"PATH": path, "OMP_NUM_THREADS": "1"}  # PyTorch's threads stand in each other's way where servers run beside them
    ours |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LANGSMITH_TRACING": "false"}  # nothing goes out
    return {**{k: v for k, v in os.environ.items() if not k.startswith("MILVUS_COOP_")}, **ours}


def test_blocks_are_of_known_languages() -> None:
    assert {language for blocks in BLOCKS.values() for language, _ in blocks} <= {"sh", "python", "text"}
    assert MAKE == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize(("heading", "command"), [("Quick start", "make demo"), ("Tests", "make test")])
def test_a_heading_has_one_command(heading: str, command: str) -> None:
    section = TEXTS["README.md"].split(f"\n## {heading}\n")[1].split("\n## ")[0]
    assert re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL) == [f"{command}\n"]


@pytest.mark.parametrize("command", MAKE, ids=" ".join)
def test_make_targets_exist(command: list[str]) -> None:
    """`.ci/run` runs them; here they are only resolved, since one of them runs this test."""
    subprocess.run([command[0], "--dry-run", *command[1:]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PYTHON)
def test_python_blocks(page: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", PYTHON[page]], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if page not in SEARCHES:
        return
    first = next(line for line in done.stdout.splitlines() if line.startswith("1 "))
    assert "dog" in first
    assert "True" in done.stdout
    if page == "README.md":
        (lines, percents), (shown_lines, shown_percents) = _parted(done.stdout), _parted(SHOWN)
        assert lines == shown_lines, "the output in README.md is not what its Python prints"
        assert percents == pytest.approx(shown_percents, abs=1)  # CPUs differ in the last digits


def _parted(output: str) -> tuple[str, list[float]]:
    """An output without its percentages, and these."""
    return re.sub(r"[\d.]+%", "%", output), [float(percent) for percent in re.findall(r"([\d.]+)%", output)]


@pytest.mark.timeout(600)  # a page trains, exports and evaluates
@pytest.mark.parametrize("page", [name for name, lines in LINES.items() if lines])
def test_commands(page: str, folder: Path, environment: dict[str, str]) -> None:
    lines = [line for line in LINES[page] if line.split() not in MAKE]
    assert lines, "only make"
    with ExitStack() as stack, ExitStack() as gateway:
        ports = dict(zip(("8001", "8000", "8002", "8080"), map(str, free_ports(4)), strict=True))
        for line in lines:
            assert line.startswith(("milvus-coop ", "curl ")), line
            if line.startswith("milvus-coop "):
                gateway.close()  # it has the Milvus Lite folder to itself
            if line.startswith("milvus-coop triton serve"):
                flags = ["--port", ports["8001"], "--http-port", ports["8000"], "--metrics-port", ports["8002"]]
                stack.enter_context(serving([*line.split(), *flags], "Triton is ready", folder, environment))
                continue
            if line.startswith("milvus-coop serve"):
                gateway.enter_context(serving([*line.split(), "--port", ports["8080"]], "milvus-coop serves", folder, environment))
                continue
            command = line.replace("curl ", "curl --fail-with-body ")
            for port, free in ports.items():
                command = command.replace(f":{port}", f":{free}")
            done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr


@contextmanager
def serving(command: list[str], ready: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a command that serves beside the others, until Ctrl-C."""
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = list(takewhile(lambda text: ready not in text, process.stderr))
        assert process.poll() is None, said
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            assert "Traceback" not in process.stderr.read()
    assert process.returncode == 0
