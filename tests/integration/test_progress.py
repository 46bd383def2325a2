"""The progress of an ingest from the real command and every engine: a bar, lines of JSON, and metrics for Prometheus."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from milvus_coop import CoopIngest, Item
from milvus_coop.cli.main import cli
from milvus_coop.ingest.options import RUNS

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "examples" / "images"
N_SAMPLES = 61
STAGES = ["sources", "lookup", "read", "encode", "write"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in ("ingest", *arguments)])
    assert result.exit_code == code, result.output
    return result


def last_line(result: Result) -> dict[str, Any]:
    """The last line of JSON on standard error; every line there is JSON."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    return lines[-1]


def shape(value: object) -> object:
    """The keys of an object, at all depths."""
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else None


def test_lines_of_json(tmp_path: Path) -> None:
    """Without a terminal, with a failure; beside the report as JSON."""
    shutil.copytree(SAMPLES, "photos")
    Path("photos", "broken.jpg").write_bytes(b"no image")
    result = run("photos", "--progress-json", "--progress-every", "0.1", "--json", code=1)
    line, report = last_line(result), json.loads(result.stdout)
    assert {name: line[name] for name in ("added", "updated", "unchanged", "failed")} == {
        name: report[name] for name in ("added", "updated", "unchanged", "failed")
    }
    assert line["seen"] == line["done"] == line["total"] == N_SAMPLES + 1
    assert line["eta_s"] == 0.0
    assert line["items_per_s"] > 0
    assert list(line["stages"]) == STAGES
    assert all(line["stages"][stage]["seconds"] > 0 for stage in ("read", "encode", "write"))
    assert all(0 <= stage["busy"] <= 1 for stage in line["stages"].values())
    assert line["stages"]["sources"]["seconds"] <= line["seconds"] + 0.1, "it is one thread"
    assert line["stages"]["encode"]["seconds"] <= RUNS * (line["seconds"] + 0.1)
    again = last_line(run("photos", "--progress-json", code=1))
    assert (again["unchanged"], again["stages"]["encode"]["seconds"]) == (N_SAMPLES, 0.0)


def test_the_last_line_of_a_stopped_ingest_has_all_failures() -> None:
    Path("photos").mkdir()
    for i in range(40):
        Path("photos", f"broken-{i:02}.jpg").write_bytes(b"no image")
    result = run("photos", "--progress-json", "--max-failures", "3", code=2)
    assert json.loads(result.stderr.splitlines()[0])["failed"] == 4


def test_the_line_in_the_docs_has_the_keys_of_a_real_one() -> None:
    page = (ROOT / "docs" / "ingest.md").read_text("utf-8")
    (block,) = re.findall(r'^```text\n(\{"seen".*?)^```', page, re.MULTILINE | re.DOTALL)
    real = last_line(run(SAMPLES / "dog.jpg", "--progress-json"))
    assert shape(json.loads(block)) == shape(real)


def test_the_bar_names_the_stage_that_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", run(SAMPLES).stderr)
    assert re.search(rf"ingest \S+ {N_SAMPLES}/{N_SAMPLES} [0-9,.]+/s (read|encode) \d+% +0:\d\d:\d\d 0 s left", shown)
    assert run(SAMPLES, "--quiet").stderr == ""


def test_parquet_files_too() -> None:
    line = last_line(run(SAMPLES, "--progress-json", "--sink", "parquet", "--out", "rows"))
    assert line["added"] == N_SAMPLES
    assert line["stages"]["write"]["seconds"] > 0


@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_ray_cluster_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.data")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    result = run(SAMPLES, "--progress-json", "--engine", "ray", "--address", "local", "--workers", "2", "--threads", "1")
    line = json.loads([line for line in result.stderr.splitlines() if line.startswith("{")][-1])
    assert (line["added"], line["done"], line["seen"]) == (N_SAMPLES, N_SAMPLES, N_SAMPLES)
    assert all(line["stages"][stage]["seconds"] > 0 for stage in ("read", "encode"))
    assert all(0 <= stage["busy"] <= 1 for stage in line["stages"].values())


def scraped(url: str) -> dict[str, float]:
    """The metrics of the ingest; those with labels as name{value}."""
    with urlopen(url, timeout=10) as answer:  # a port of this machine
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label = f"{{{','.join(sample.labels.values())}}}" if sample.labels else ""
            found[sample.name.removeprefix("milvus_coop_ingest_") + label] = sample.value
    return found


def test_metrics_follow_an_ingest() -> None:
    from milvus_coop.ingest.metrics import serve_metrics

    scrapes: list[dict[str, float]] = []
    with serve_metrics(0) as metrics:
        scrapes.append(scraped(metrics.url))

        def items() -> Iterator[Item]:
            for i, path in enumerate(sorted(SAMPLES.glob("*.jpg"))[:4]):
                yield Item(str(i), path)
            yield Item("broken", io.BytesIO(b"no image").getvalue())

        with CoopIngest(uri="lite.db") as ingest:
            ingest.ingest_items(items(), on_progress=metrics.show)
            scrapes.append(scraped(metrics.url))
            ingest.ingest_items(list(items()), on_progress=metrics.show)
            scrapes.append(scraped(metrics.url))
    names = ("items_total{added}", "items_total{failed}", "items_total{unchanged}", "seen_total", "total_items")
    assert [[scrape.get(name) for name in names] for scrape in scrapes] == [
        [0, 0, 0, 0, None],
        [4, 1, 0, 5, None],
        [0, 1, 4, 5, 5],
    ]
    assert [stage for stage in STAGES if f"stage_seconds_total{{{stage}}}" in scrapes[0]] == STAGES
    assert 0 < scrapes[1]["stage_seconds_total{encode}"] <= scrapes[1]["stage_available_seconds_total{encode}"]
    assert scrapes[0]["start_time_seconds"] == scrapes[2]["start_time_seconds"] > 1.7e9
    assert scrapes[2]["process_resident_memory_bytes"] > 0
    with pytest.raises(OSError, match="refused"):
        scraped(metrics.url)


def test_metrics_of_the_command() -> None:
    """They are there from before the models are opened, on this machine only."""
    command = [sys.executable, "-m", "milvus_coop", "ingest", str(SAMPLES), "--metrics-port", "0", "--progress-json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        url = said.removeprefix("metrics of this ingest: ").strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", url), said
        assert scraped(url)["items_total{failed}"] == 0
        out, err = process.communicate()
    assert process.returncode == 0
    assert f"{N_SAMPLES} added" in out
    assert json.loads(err.splitlines()[-1])["done"] == N_SAMPLES


def test_wrong_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--progress-every needs --progress-json" in run(SAMPLES, "--progress-every", "1", code=2).output
    assert "--metrics-host needs --metrics-port" in run(SAMPLES, "--metrics-host", "::1", code=2).output
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in run(SAMPLES, "--metrics-port", str(port), code=2).output
    monkeypatch.delitem(sys.modules, "milvus_coop.ingest.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    missing = run(SAMPLES, "--metrics-port", "0", code=2).output
    assert "prometheus_client is not installed" in missing
    assert "pip install 'milvus-coop[serve]'" in missing
    assert not Path("milvus_coop.db").exists(), "nothing was begun"
