"""report.html and results.json: complete, escaped, and nothing from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.offline.datasets import Caption, DataProblem
from milvus_coop.offline.evaluation import EvaluationOptions, EvaluationReport, evaluate, output
from milvus_coop.offline.evaluation.page import render
from milvus_coop.offline.evaluation.tables import milliseconds, summary_lines, tables
from tests.evaluation.kit import Given, fake, item

EVIL = "<script>alert(1)</script> \"'&$x^2$ </style></title>"
VOID = {"meta"}


class Checked(HTMLParser):
    """Collects elements, attributes and text; refuses tags that are closed in another order than opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    captions = [Caption(f"{EVIL} {i}", "en", f"<i>{i % 2}") for i in range(24)]
    data = Given([item(i, caption) for i, caption in enumerate(captions)], name=f"/data/{EVIL}", problems=[DataProblem(EVIL, EVIL)])
    options = EvaluationOptions(ks=(3, 10), cost_queries=3, cost_s=0.1, resamples=50, gallery=2)
    return evaluate(data, [fake(EVIL), fake("other")], options)


@pytest.fixture(scope="module")
def page(report: EvaluationReport) -> str:
    return render(report)


def test_foreign_text_stays_text(page: str) -> None:
    found = Checked(page)
    assert "script" not in found.tags
    assert "i" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "<script" not in page
    assert page.count("</style>") == 1 + page.count('<style type="text/css">')
    assert page.count("</title>") == 1
    texts = "".join(found.texts)
    assert f"{EVIL} 1" in texts
    assert any(EVIL in value for name, value in found.attributes if name == "aria-label") or "item0" in page


def test_nothing_is_loaded(page: str) -> None:
    found = Checked(page)
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(found.tags)
    addresses = [value for name, value in found.attributes if re.search(r"(https?:)?//", value) and not name.startswith("xmlns")]
    assert [a for a in addresses if EVIL not in a and "w3.org" not in a] == []
    links = [value for name, value in found.attributes if name in {"src", "href", "xlink:href"}]
    assert all(link.startswith("#") for link in links)
    assert re.findall(r"url\((?!data:image/jpeg;base64,|#)", page) == []
    assert "default-src 'none'" in page
    assert "@import" not in page


def test_ids_are_unique_and_references_have_targets(page: str) -> None:
    found = Checked(page)
    assert len(found.ids) == len(set(found.ids))
    targets = {v[1:] for n, v in found.attributes if n in {"href", "xlink:href"}} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(found.ids)


def test_plots_take_the_colours_of_the_page(page: str) -> None:
    assert page.count("<figure>") == 5
    assert "#0102" not in page
    assert "var(--joint-coop)" in page
    assert "prefers-color-scheme: dark" in page


def test_every_figure_of_every_table_is_there(page: str, report: EvaluationReport) -> None:
    texts = Checked(page).texts
    for table in tables(report):
        assert table.title in texts
        for row in table.rows:
            assert len(row) == len(table.header)
            assert set(row) <= set(texts)
    for line in summary_lines(report):
        assert line in texts


def test_right_answers_are_marked(page: str, report: EvaluationReport) -> None:
    right = sum(s.right for case in report.cases for s in (*case.be, *case.coop))
    assert page.count('<li class="right">') == right
    assert right >= len(report.cases) > 0
    for number in report.thumbnails:
        assert page.count(f".t{number}{{") == 1


def test_files(report: EvaluationReport, tmp_path: Path) -> None:
    results, page = output.write_output(report, tmp_path / "new" / "report")
    content = json.loads(results.read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(report.to_dict()))
    assert content["problems"] == [{"place": EVIL, "reason": EVIL}]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert page.stat().st_size < 2_000_000


def test_a_report_of_little_is_still_a_page(report: EvaluationReport) -> None:
    bare = replace(report, quality=(), reach=(), cost=(), growth=(), storage=(), ann_recall=(), cases=(), changes={}, thumbnails={})
    found = Checked(render(bare))
    assert "svg" not in found.tags
    assert tables(bare) == []


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PLOTTER", "no_such_library")
    with pytest.raises(InvalidArgumentError, match=r"pip install 'milvus-coop\[eval\]'"):
        output.check_output(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgumentError, match="cannot be written"):
        output.check_output(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.42, "0.4 ms"),
        (12.34, "12.3 ms"),
        (740, "740 ms"),
        (1234, "1.2 s"),
        (45_600, "46 s"),
        (2_400_000, "40 min"),
        (36e6, "10.0 h"),
    ],
)
def test_times_read_well(value: float, text: str) -> None:
    assert milliseconds(value) == text
