"""Dashboard, alerts and autoscalers ask for metrics that exist: those of a real service, of a real Triton, and of documents."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from milvus_coop.bundle import GRAPHS, load_bundle
from milvus_coop.config import Settings
from milvus_coop.models.backends import open_backend
from milvus_coop.serving.gateway.metrics import Metrics
from milvus_coop.types import IngestReport
from tests.helm.kit import CHART, rendered
from tests.servers.triton import TritonForTests

DOCUMENTED = {
    # of Triton on GPUs: its user guide, "Metrics"
    *("nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes", "nv_gpu_power_usage"),
    # of Milvus: its documentation, "Milvus Metrics Dashboard"
    *("milvus_proxy_sq_latency_bucket", "milvus_proxy_search_vectors_count", "milvus_proxy_insert_vectors_count"),
    # of kube-state-metrics: its documentation, "Deployment Metrics"
    "kube_deployment_status_replicas_available",
}
"""Metrics that no server at hand gives, and where they are promised."""
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))
ADAPTER = yaml.safe_load((CHART / "files" / "prometheus-adapter.yaml").read_text(encoding="utf-8"))


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> Iterator[tuple[str, str]]:
    """Everything that is asked of Prometheus: where, and what."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"].replace("$__rate_interval", "1m")
    (rule,) = rendered("ha").of_kind("PrometheusRule")
    for alert in rule["spec"]["groups"][0]["rules"]:
        yield f"alert {alert['alert']}", alert["expr"]
    for case in ("keda, ratio", "keda, pending"):
        (scaler,) = rendered(case).of_kind("ScaledObject")
        yield case, scaler["spec"]["triggers"][0]["metadata"]["query"]
    for rule in ADAPTER["rules"]["custom"]:
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="x",pod=~"a|b"').replace("<<.GroupBy>>", "pod")
        yield f"adapter {rule['name']['as']}", query
        yield f"adapter {rule['name']['as']}, series", rule["seriesQuery"]


def selectors(expression: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Metrics of a parsed expression, each with the labels that it is asked for."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield str(expression.name), {matcher.name: matcher.value for matcher in expression.matchers.matchers}
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs"):
        if getattr(expression, name, None) is not None:
            yield from selectors(getattr(expression, name))
    for argument in getattr(expression, "args", None) or ():
        yield from selectors(argument)


def exposed(text: str) -> dict[str, dict[str, set[str]]]:
    """Metric -> label -> values, of an exposition."""
    found: dict[str, dict[str, set[str]]] = {}
    for line in text.splitlines():
        if match := re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", line):
            labels = found.setdefault(match[1], {})
            for name, value in re.findall(r'(\w+)="([^"]*)"', match[2] or ""):
                labels.setdefault(name, set()).add(value)
    return found


@pytest.fixture(scope="session")
def of_the_gateway() -> dict[str, dict[str, set[str]]]:
    """Its metrics, each counted once."""
    metrics = Metrics()
    for order in ("coop", "degraded", "bi-encoder"):
        metrics.searches.labels(order).inc()
    metrics.stages.labels("encode").observe(1)
    metrics.requests.labels("POST", "/v1/search", 200).inc()
    metrics.seconds.labels("/v1/search").observe(1)
    metrics.failures.labels("StoreError").inc()
    metrics.documents.labels("cohere").inc()
    metrics.unreadable.labels("cohere").inc()
    metrics.ingested(IngestReport(added=1, updated=1, unchanged=1, removed=0, failures=(), seconds=1.0))
    return exposed(metrics.exposition().decode())


@pytest.fixture(scope="session")
def of_triton(triton_server: TritonForTests) -> dict[str, dict[str, set[str]]]:
    """Its metrics, after a request to each model."""
    backend = open_backend(Settings(models=triton_server.uri), load_bundle("coop-small"))
    backend.load(GRAPHS)
    backend.close()
    with urllib.request.urlopen(f"http://127.0.0.1:{triton_server.endpoints.metrics}/metrics") as answer:
        return exposed(answer.read().decode())


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda value: value if "{" not in value else "")
def test_prometheus_can_read_it(where: str, expression: str) -> None:
    assert list(selectors(promql_parser.parse(expression))), where


def test_every_gateway_metric_is_real(of_the_gateway: dict[str, dict[str, set[str]]]) -> None:
    assert_asked_of(of_the_gateway, ("milvus_coop_", "process_"))


@pytest.mark.triton
def test_every_triton_metric_is_real(of_triton: dict[str, dict[str, set[str]]]) -> None:
    assert_asked_of(of_triton, ("nv_inference_",))


def assert_asked_of(known: dict[str, dict[str, set[str]]], prefixes: tuple[str, ...]) -> None:
    asked = 0
    added = {"namespace", "service", "pod", "deployment"}  # by Prometheus itself, when it finds pods
    for where, expression in expressions():
        for metric, labels in selectors(promql_parser.parse(expression)):
            if metric.startswith(prefixes):
                asked += 1
                assert metric in known, f"{where}: there is no {metric}"
                for label, value in labels.items():
                    assert label in added or label in known[metric], f"{where}: {metric} has no label {label}"
                    if label in ("order", "model", "reason"):
                        assert value in known[metric][label], f"{where}: {metric} is never of {label} {value}"
    assert asked > 5


def test_the_rest_is_documented() -> None:
    names = {metric for _, expression in expressions() for metric, _ in selectors(promql_parser.parse(expression))}
    rest = {name for name in names if not name.startswith(("milvus_coop_", "process_", "nv_inference_"))}
    assert rest == DOCUMENTED


def test_what_is_grouped_by_is_a_label(of_the_gateway: dict[str, dict[str, set[str]]]) -> None:
    for panel in panels():
        for target in panel["targets"]:
            groups = {name.strip() for found in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in found.split(",")}
            for metric in re.findall(r"milvus_coop_\w+", target["expr"]):
                assert groups - {"pod"} <= of_the_gateway[metric].keys(), panel["title"]
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= groups | {"pod", "gpu_uuid"}


def test_the_dashboard_is_one_that_grafana_lays_out() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
    assert used == variables
    for panel in panels():
        assert panel["description"]
    titles = json.dumps([panel["title"] for panel in panels()])
    for topic in ("Stages", "Degraded", "Pairs reranked", "Queue", "GPU", "Vectors"):
        assert topic in titles


def test_the_dashboard_is_installed_as_it_is() -> None:
    config = rendered("ha").one("ConfigMap", "-dashboard")
    assert json.loads(config["data"]["milvus-coop.json"]) == DASHBOARD
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_autoscaler_asks_for_what_the_adapter_makes() -> None:
    made = {rule["name"]["as"] for rule in ADAPTER["rules"]["custom"]}
    (metric,) = rendered("ha").one("HorizontalPodAutoscaler", "-triton")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in made
    assert made == {"milvus_coop_triton_queue_ratio", "milvus_coop_triton_pending"}


def test_alerts_say_what_to_do() -> None:
    (rule,) = rendered("ha").of_kind("PrometheusRule")
    for alert in rule["spec"]["groups"][0]["rules"]:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert len(alert["annotations"]["description"]) > 40
        assert alert["for"]
    names = re.findall(r"milvus_coop_\w+", json.dumps([alert["annotations"] for alert in rule["spec"]["groups"][0]["rules"]]))
    assert names, "descriptions point to metrics"


def test_files_of_the_chart_are_in_its_package(tmp_path: Path) -> None:
    import helm_python

    archive = helm_python.Chart.load(CHART).save(tmp_path)
    with helm_python.Chart.load(archive) as packed:
        assert {"files/dashboard.json", "files/prometheus-adapter.yaml", "files/smoke_test.py"} <= {f["name"] for f in packed.files}
