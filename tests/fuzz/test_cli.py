"""Any command line gives an answer, or a short error with exit code 1 or 2: no traceback, no control characters, no hanging.

Commands run in this process, in a folder of their own with a small collection. Those that would start servers, train, fetch from
the internet or drop the collection only parse their arguments. For the bounds of time and memory see `tests.fuzz.runs`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from milvus_coop.cli.main import cli
from tests.fuzz.lists import PLACES
from tests.fuzz.runs import holds, lengths
from tests.fuzz.values import TEXTS
from tests.leftovers import MARK

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PARSED_ONLY = {
    *(("serve",), ("train",), ("export",), ("eval",), ("demo",), ("doctor",), ("bundle", "convert"), ("collections", "drop")),
    *(("triton", "serve"), ("triton", "install"), ("triton", "build-plans"), ("triton", "check-plans")),
}
"""Commands with effects beyond the folder, or with long ones: only the parsing of their arguments is tried."""
SETTINGS = {"MILVUS_COOP_TIMEOUT_S": "0.5", "MILVUS_COOP_THREADS": "1"}


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """All commands that are no groups, by their names."""
    found: dict[tuple[str, ...], click.Command] = {}
    for name, command in group.commands.items():
        below = (*path, name)
        found |= leaves(command, below) if isinstance(command, click.Group) else {below: command}
    return found


COMMANDS = leaves(cli)
# Sources end below the folder of the test, because a command may read all of a folder, or write there.
NAMES = ["photos", "photos/dog.jpg", "list.jsonl", "texts.txt", "lite.db", "none", "broken.png"]
FILES = st.sampled_from(NAMES)  # the value of an option may be written to, and writing to a pipe waits for its reader
SOURCES = st.sampled_from([*NAMES, "pipe.jpg"])
LINES = PLACES.filter(lambda place: not place.strip().startswith(("/", "~", "..")))
NUMBERS = st.one_of(
    st.integers(-1, 20).map(str),
    st.sampled_from(["", "nan", "inf", "-inf", "1e999", "9" * 30, "-0", "0x10", "1_0", "٣", "1.5", "1e-300", "99999999"]),
)
ADDRESSES = st.sampled_from(
    ["lite.db", "none.db", "photos", "", "http://127.0.0.1:1", "http://[::1", "https://", "ftp://x", "http://u:p@h"]
)
MODELS = st.sampled_from(["onnx", "onnx:none", "onnx:cuda", "", "triton://127.0.0.1:1", "triton://", "tritons://[", "x" * 300])
CHOSEN: dict[str, st.SearchStrategy[str]] = {
    "uri": ADDRESSES,
    "models": MODELS,
    "bundle": st.sampled_from(["coop-small", "photos", "none", "", "../x"]) | TEXTS,
    "collection": st.sampled_from(["images", "texts", "none", "a-b", ""]) | TEXTS,
    "filter": st.sampled_from(["year > 2000", "year >", "((("]) | TEXTS,
    "token_store": st.sampled_from(["tokens", "s3://[", "memory://x", ""]) | TEXTS.map(lambda text: f"t{text}"),
}


def _values(parameter: click.Parameter) -> st.SearchStrategy[str]:
    if isinstance(parameter.type, click.Choice):
        return st.sampled_from([str(choice) for choice in parameter.type.choices]) | TEXTS
    fitting = CHOSEN.get(str(parameter.name))
    if fitting is None and isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
        fitting = NUMBERS
    files = SOURCES if isinstance(parameter, click.Argument) else FILES
    return st.one_of(fitting, fitting, NUMBERS) if fitting is not None else st.one_of(files, files, LINES, NUMBERS)


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[tuple[str, ...], list[str]]:
    """A command, and arguments that fit it more or less."""
    path = draw(st.sampled_from(sorted(COMMANDS)))
    arguments: list[str] = []
    options = [parameter for parameter in COMMANDS[path].params if not isinstance(parameter, click.Argument)]
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Argument):
            number = draw(st.integers(0, 2)) if parameter.nargs == -1 else draw(st.sampled_from([1] * 8 + [0, 2]))
            arguments += [draw(_values(parameter)) for _ in range(number)]
    # As many options whatever the command has, because with each of them a command line is less likely to succeed.
    for place in sorted(draw(st.sets(st.integers(0, len(options) - 1), max_size=5))) if options else ():
        parameter = options[place]
        arguments.append(draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts])))
        if not (parameter.is_flag or parameter.count):  # type: ignore[attr-defined]
            arguments.append(draw(_values(parameter)))
    if draw(st.integers(0, 9)) == 0:
        arguments.insert(draw(st.integers(0, len(arguments))), draw(st.sampled_from(["--", "-", "--none", "-x", "--uri"]) | LINES))
    return path, arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "photos").mkdir()
    for name in ("dog.jpg", "cat.jpg"):
        shutil.copy(EXAMPLES / "images" / name, folder / "photos" / name)
    (folder / "list.jsonl").write_text('{"path": "photos/dog.jpg", "year": 2019}\n{"path": "none.jpg"}\n', encoding="utf-8")
    (folder / "texts.txt").write_text("a dog\na cat\n", encoding="utf-8")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    os.mkfifo(folder / "pipe.jpg")
    for arguments in (["photos"], ["texts.txt", "--texts", "--collection", "texts"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert CliRunner().invoke(cli, ["ingest", *arguments, "--uri", f"{folder}/lite.db"]).exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SETTINGS, "MILVUS_COOP_URI": f"{folder}/lite.db"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)


def check_output(output: str) -> None:
    assert "Traceback" not in output
    assert not set(output) & set("\0\x07\x08\x1b\x7f\x9b\u202e")


@lengths(short=150, long=3000)
@pytest.mark.filterwarnings("ignore")  # Pillow's reader of TIFF tags warns
def test_command_lines(inputs: int) -> None:
    answered = 0

    def rule(line: tuple[tuple[str, ...], list[str]]) -> None:
        nonlocal answered
        # As a process would get them: no NUL, and what is not UTF-8 as bytes.
        path, arguments = line[0], [os.fsdecode(a.replace("\0", "").encode("utf-8", "surrogatepass")) for a in line[1]]
        if path in PARSED_ONLY:
            with contextlib.suppress(click.ClickException, click.exceptions.Exit):
                COMMANDS[path].make_context(path[-1], list(arguments))
            return
        result = CliRunner().invoke(cli, [*path, *arguments])
        # The entry point shows an OSError, such as that of a full disk, in one line.
        assert result.exception is None or isinstance(result.exception, SystemExit | OSError), result.exc_info
        assert result.exit_code in (0, 1, 2)
        check_output(result.output)
        answered += result.exit_code == 0

    assert set(COMMANDS) >= PARSED_ONLY
    holds(rule, command_lines(), inputs)
    assert inputs // 50 < answered < inputs


BYTES = [b"\xff", b"caf\xe9.jpg", b"\xff\xfe\x00x".replace(b"\0", b""), b"\xed\xa0\x80", "naïve".encode("latin-1"), b"\x1b[2J\xff"]
LINES_OF_BYTES: list[tuple[bytes, ...]] = [
    *((b"query", text) for text in BYTES),
    *((b"query", b"--image", text) for text in BYTES),
    *((b"ingest", text) for text in BYTES[:3]),
    *(
        (b"query", option, BYTES[0], b"a dog")
        for option in (b"--collection", b"--filter", b"--uri", b"--output-fields", b"--bundle")
    ),
    *((b"query", b"a dog", option, BYTES[1]) for option in (b"--models", b"--limit", b"--html", b"--token")),
    *((b"embed", b"--text", text) for text in BYTES[:2]),
    *((b"score", b"--text", b"a dog", text) for text in BYTES[:2]),
    *((b"collections", b"drop", BYTES[0]), (b"bundle", b"show", BYTES[0]), (BYTES[0],), (b"--" + BYTES[0],)),
]
"""Command lines with arguments that are not UTF-8."""


@pytest.mark.parametrize(
    "number", [pytest.param(i, marks=() if i % 8 == 0 else pytest.mark.more) for i in range(len(LINES_OF_BYTES))]
)
def test_arguments_that_are_not_utf_8(number: int) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8" if number % 2 else "C", MARK: os.environ[MARK]}
    command: list[Any] = [os.fsencode(sys.executable), b"-m", b"milvus_coop", *LINES_OF_BYTES[number]]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode in (0, 1, 2), done
    check_output((done.stdout + done.stderr).decode())
    assert done.returncode == 0 or done.stderr
