"""Text from elsewhere is harmless in a terminal, and nothing else prints."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import sys
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import milvus_coop
from milvus_coop.cli.lines import json_line, say
from milvus_coop.cli.main import cli
from milvus_coop.cli.tables import print_pairs, print_report, print_result, shown
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.printable import printable
from milvus_coop.serving.gateway.logs import ReadableLines
from milvus_coop.types import Failure, Hit, IngestReport, SearchResult, Timings

CLI = Path(milvus_coop.__file__).parent / "cli"
ODD = (
    "\x1b\x07\x00\x08\x7f\x9b\x85\r\n\t\u2028\u200b\u200d\u200e\u202e\u2066\u2069\ufeff\u061c\u00ad\udcff\ud83d\U000e0041\xa0\u3000"
)
TIMINGS = Timings(1, 2, 3, 6)
WORDS = ("]0;X", "[2J", "[bold]", "[/bold]", "[link=https://evil.example]", "[/]", ":dog:", "\\[red]", "é", "犬", "a")
evil = st.lists(st.one_of(st.sampled_from([*ODD, *WORDS]), st.text(max_size=3)), max_size=6).map("".join)


def is_harmless(text: str) -> bool:
    """No controls, no format characters, no halves of surrogate pairs; lines end as lines do."""
    return all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text.replace("\n", ""))


@given(evil)
def test_printable(text: str) -> None:
    told = printable(text)
    assert told.isprintable()
    assert printable(told) == told
    left = iter(told)
    assert all(char in left for char in text if char.isprintable()), "nothing else is lost, and the order stays"
    told.encode("utf-8")


def test_examples() -> None:
    assert printable("a\x1b]0;X\x07\x1b[2J") == r"a\x1b]0;X\x07\x1b[2J"
    assert printable("photo\u202egpj.exe") == "photogpj.exe"
    assert printable("two\r\nlines\tand\u2028more") == "two  lines and more"
    assert printable("naïve 犬 🐕 [bold]") == "naïve 犬 🐕 [bold]"
    assert printable("caf\udce9.jpg") == r"caf\udce9.jpg"


@given(st.dictionaries(evil, st.one_of(evil, st.lists(evil, max_size=2), st.integers(), st.none()), max_size=3))
def test_json_is_exact_and_harmless(value: dict[str, object]) -> None:
    line = json_line(value)
    assert json.loads(line) == json.loads(json.dumps(value)), "JSON itself joins halves of surrogate pairs"
    assert line.isprintable()


@given(evil)
def test_rich_shows_it_as_it_is(text: str) -> None:
    console = Console(file=io.StringIO(), width=10_000, force_terminal=True, color_system="truecolor", legacy_windows=False)
    console.print(shown(text), soft_wrap=True, end="")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == printable(text)


def results(text: str) -> SearchResult:
    hits = [
        Hit(id="1", uri=text, rank=1, score=0.5, be_rank=1, be_score=0.5, ce_score=None, text=None, fields={text: [text]}),
        Hit(id="2", uri="b", rank=2, score=0.4, be_rank=2, be_score=0.4, ce_score=0.4, text=text, fields={}),
    ]
    return SearchResult(tuple(hits), False, 1, 2, text, TIMINGS)


@given(evil)
def test_tables_and_lines(text: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("COLUMNS", "600")
        print_result(results(text), title=text)
        print_result(SearchResult((), True, 0, 0, None, TIMINGS), title=text)
        print_report(IngestReport(1, 0, 0, 0, (Failure(text, text),), 1.0), text)
        print_pairs("", [(text, text)])
        say(text, text, err=True)
    assert is_harmless(out.getvalue())
    assert is_harmless(err.getvalue().replace("\t", ""))
    assert out.getvalue().count(printable(text).rstrip()) >= 4 * bool(text.strip()), "nothing is interpreted"


@given(evil)
def test_logs(text: str) -> None:
    try:
        raise InvalidArgumentError(text)
    except InvalidArgumentError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "failed", None, sys.exc_info())
    record.facts = {"path": text}
    assert is_harmless(ReadableLines().format(record))


@pytest.mark.parametrize(
    "arguments", [("bundle", "show", "a\x1b[2J"), ("query", "x", "\x1b[2J\u202e"), ("\x1b[2J",), ("query", "-\x1b")]
)
def test_errors(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, arguments, env={"MILVUS_COOP_URI": str(tmp_path / "lite.db")})
    assert done.exit_code == 2
    assert is_harmless(done.stderr)


def test_commands_print_by_these_functions_only() -> None:
    """`click.echo` is for JSON, which is made by `json_line`, `printable_json` or a function that uses them."""
    found = {
        (path.name, ast.unparse(node.args[0]))
        for path in CLI.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "click.secho", "print") and node.args
    }
    assert {(name, what) for name, what in found if name != "lines.py"} == {
        ("bundle.py", "printable_json(spec.to_json())"),
        ("query.py", "line"),
        ("score.py", "line"),
    }
