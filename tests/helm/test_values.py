"""Wrong values are refused before anything is installed, in words that say what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from milvus_coop.serving.gateway.options import GatewayOptions
from tests.helm.kit import CHART, EXTERNAL, INGEST, KEYS, refusal, render, values_of

GOOD = f"{EXTERNAL},{KEYS}"
RAY = f"{INGEST},ingest.engine=ray"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("gateway.replicas=two", r"at '/gateway/replicas': got string, want integer"),
        ("gateway.replica=2", r"at '/gateway': additional properties 'replica' not allowed"),
        ("triton.platform=cuda", r"at '/triton/platform': value must be one of 'python', 'tensorrt'"),
        ("milvusClient.uri=milvus.db", r"at '/milvusClient/uri': 'milvus.db' does not match pattern"),
        ("gateway.options.max_k=5", r"at '/gateway/options': additional properties 'max_k' not allowed"),
        ("gateway.options.maxK=0", r"at '/gateway/options/maxK': minimum: got 0, want 1"),
        ("gateway.options.rateLimit=-1", r"at '/gateway/options/rateLimit'"),
        ("gateway.options.rateBurst=1.5", r"at '/gateway/options/rateBurst'"),
        ("gateway.keyFiltersSecret.filters=a", r"at '/gateway/keyFiltersSecret': additional properties 'filters' not allowed"),
        ("triton.host=localhost", r"at '/triton/host': 'localhost' does not match pattern"),
        ("ingest.progressSeconds=0", r"at '/ingest/progressSeconds': minimum: got 0, want 0.1"),
        ("gateway.image.digest=abc", r"at '/gateway/image/digest': 'abc' does not match pattern"),
        ("image.pullPolicy=Sometimes", r"at '/image/pullPolicy': value must be one of"),
        ("timeoutSeconds=0", r"at '/timeoutSeconds': exclusiveMinimum: got 0, want 0"),
        ("ingest.engine=spark", r"at '/ingest/engine': value must be one of 'local', 'ray'"),
        ("ingest.maxFailures=-1", r"at '/ingest/maxFailures'"),
        ("ingest.ray.state=state", r"at '/ingest/ray/state': 'state' does not match pattern"),
        ("ingest.ray.gpu.models=triton://x", r"at '/ingest/ray/gpu/models'"),
        ("ingest.ray.cpus=3", r"at '/ingest/ray': additional properties 'cpus' not allowed"),
        ("ingest.schedule=daily", r"at '/ingest/schedule': 'daily' does not match pattern"),
        ("gateway.apiKeysSecret.value=abc", r"at '/gateway/apiKeysSecret': additional properties 'value' not allowed"),
        ("podSecurity.runAsUser=0", r"at '/podSecurity/runAsUser': minimum: got 0, want 1"),
        ("monitoring.rules.degradedRatio=5", r"at '/monitoring/rules/degradedRatio': maximum: got 5, want 1"),
        ("fullnameOverride=My_Pictures", r"at '/fullnameOverride': 'My_Pictures' does not match pattern"),
        ("gateway.ingress.path=pictures/", r"at '/gateway/ingress/path': 'pictures/' does not match pattern"),
        ("collection=my-pictures", r"at '/collection': 'my-pictures' does not match pattern"),
    ],
)
def test_the_schema_refuses(settings: str, says: str) -> None:
    assert re.search(says, refusal(f"{GOOD},{settings}"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (KEYS, r"milvusClient.uri is empty; expected: http\(s\)://host:19530.*--set milvus.enabled=true"),
        (EXTERNAL, r"the gateway has no API keys; expected: gateway.apiKeysSecret.name.*--set gateway.anonymous=true"),
        (
            f"{EXTERNAL},gateway.anonymous=true,gateway.keyFiltersSecret.name=filters",
            r"keyFiltersSecret is set, but the gateway has no API keys; expected: gateway.apiKeysSecret.name",
        ),
        (f"{GOOD},bundle.name=/models/blip", r"bundle.name is /models/blip; expected: .*below /bundles"),
        (f"{GOOD},bundle.name=/bundles/blip", r"together with bundle.existingClaim"),
        (f"{GOOD},tokenStore.uri=/tokens", r"together with tokenStore.existingClaim"),
        (f"{GOOD},triton.externalUri=triton://x", r"triton.enabled and triton.externalUri are both set"),
        (f"{GOOD},triton.tls.enabled=true", r"triton.tls.secret is empty"),
        (f"{GOOD},triton.tls.enabled=true,triton.tls.secret=s,triton.tls.mutual=true", r"triton.tls.clientSecret is empty"),
        (f"{GOOD},triton.autoscaling.enabled=true,triton.autoscaling.kind=keda", r"prometheusUrl is empty"),
        (f"{GOOD},gateway.ingress.enabled=true", r"gateway.ingress.host is empty"),
        (f"{GOOD},gateway.tracing.enabled=true", r"gateway.tracing.endpoint is empty"),
        (f"{GOOD},{INGEST},ingest.shards=3", r"all shards have the same sources; expected: \$\(JOB_COMPLETION_INDEX\)"),
        (f"{GOOD},{RAY},ingest.schedule=0 3 * * *", r"ingest.schedule needs ingest.engine=local"),
        (f"{GOOD},{RAY},ingest.shards=3,ingest.sources={{/$(JOB_COMPLETION_INDEX)}}", r"ingest.shards needs ingest.engine=local"),
        (f"{GOOD},{RAY},ingest.ray.gpu.replicas=1", r"are both set; expected: one of them"),
        (f"{GOOD},{RAY},ingest.ray.cpu.replicas=0", r"no workers; expected: ingest.ray.cpu.replicas"),
        (
            f"{GOOD},{RAY},ingest.ray.cpu.replicas=0,ingest.ray.gpu.replicas=1,ingest.ray.gpu.count=3,ingest.ray.gpu.workers=2",
            r"3 GPUs for 2 workers; expected: a whole number of GPUs",
        ),
        (f"{GOOD},{RAY},ingest.ray.state=/state", r"ingest.ray.state is /state; expected: s3://"),
        (f"{GOOD},{RAY},ingest.ray.state=/tokens/state", r"together with tokenStore.existingClaim"),
        (f"{GOOD},{RAY},ingest.arguments={{--force,--prune}}", r"arguments\[1\] is --prune, which needs ingest.engine=local"),
        (f"{GOOD},{RAY},ingest.arguments={{--sink=parquet}}", r"arguments\[0\] is --sink, which needs ingest.engine=local"),
        (f"{GOOD},{RAY},ingest.arguments={{--workers=9}}", r"arguments\[0\] is --workers, which the chart gives"),
        (
            f"{GOOD},{RAY},ingest.arguments={{--uri=/tokens/lite.db}}",
            r"arguments\[0\] names a Milvus Lite.*expected with ingest.engine=ray: http",
        ),
        (f"{GOOD},{RAY},ingest.arguments={{--uri,lite.db}}", r"arguments\[0\] names a Milvus Lite"),
        (f"{GOOD},{RAY},ingest.arguments={{--uri}}", r"arguments\[0\] names a Milvus Lite"),
        (
            f"{GOOD},{RAY},ingest.extraEnv[0].name=MILVUS_COOP_URI,ingest.extraEnv[0].value=lite.db",
            r"extraEnv\[0\] names a Milvus Lite",
        ),
        (f"{GOOD},{RAY},ingest.arguments={{--token=$(KEY)}}", r"has \$\( or \$\$, which is not expanded.*expected: a variable"),
        (f"{GOOD},ingest.enabled=true", r"pictures.existingClaim is empty"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: str, says: str) -> None:
    said = refusal(settings)
    assert re.search(says, said)
    assert re.search("expected(:| with)", said)


SECRET = "geheim-123"


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (f"milvusClient.uri=https://root:{SECRET}@milvus.example.com", "milvusClient.uri"),
        (f"milvusClient.uri=https://{SECRET}@milvus.example.com", "milvusClient.uri"),
        (f"milvusClient.uri=https://root:a/{SECRET}@milvus.example.com", "milvusClient.uri"),
        (f"triton.enabled=false,triton.externalUri=tritons://u:{SECRET}@triton.ai:8001", "triton.externalUri"),
        (f"tokenStore.uri=s3://key:{SECRET}@bucket/tokens", "tokenStore.uri"),
        (f"gateway.tracing.endpoint=http://u:{SECRET}@collector:4318", "gateway.tracing.endpoint"),
        (f"triton.autoscaling.prometheusUrl=http://u:{SECRET}@prometheus:9090", "triton.autoscaling.prometheusUrl"),
        (f"gateway.corsOrigins={{https://u:{SECRET}@example.com}}", "gateway.corsOrigins[0]"),
        (f"ingest.arguments={{--texts,--uri=https://u:{SECRET}@milvus}}", "ingest.arguments[1]"),
        (f"ingest.arguments={{--token,{SECRET}}}", "ingest.arguments[0]"),
        (f"ingest.arguments={{--token={SECRET}}}", "ingest.arguments[0]"),
        (f"ingest.sources={{s3://key:{SECRET}@bucket/list.jsonl}}", "ingest.sources[0]"),
        (f"ingest.ray.state=s3://key:{SECRET}@bucket/state", "ingest.ray.state"),
        (f"triton.extraArguments={{--trace-config=opentelemetry\\,url=http://u:{SECRET}@tempo/v1}}", "triton.extraArguments[0]"),
        (f"gateway.extraEnv[0].name=HTTPS_PROXY,gateway.extraEnv[0].value=http://u:{SECRET}@proxy", "gateway.extraEnv[0].value"),
        (f"gateway.extraEnv[0].name=AWS_SECRET_ACCESS_KEY,gateway.extraEnv[0].value={SECRET}", "gateway.extraEnv[0]"),
        (f"ingest.extraEnv[0].name=MILVUS_COOP_TOKEN,ingest.extraEnv[0].value={SECRET}", "ingest.extraEnv[0]"),
        (f"gateway.ingress.annotations.a=http://u:{SECRET}@auth", "gateway.ingress.annotations.a"),
    ],
)
def test_secrets_in_values_are_refused(settings: str, where: str) -> None:
    """They would stand in ConfigMaps and manifests. The message does not repeat them."""
    said = refusal(f"{GOOD},{settings}")
    assert f"{where} " in said
    assert "expected: " in said
    assert SECRET not in said


def test_references_to_secrets_are_taken() -> None:
    settings = (
        "ingest.enabled=true,ingest.sources={/tokens/a@b},ingest.arguments={--token-store=/tokens,--token=$(KEY)},"
        "tokenStore.uri=abfs://container@account.dfs.core.windows.net/tokens,"
        "gateway.extraEnv[0].name=HTTPS_PROXY,gateway.extraEnv[0].value=http://user:$(PASS)@proxy,"
        "gateway.extraEnv[1].name=AWS_WEB_IDENTITY_TOKEN_FILE,gateway.extraEnv[1].value=/token,"
        "gateway.extraEnv[2].name=AWS_SECRET_ACCESS_KEY,gateway.extraEnv[2].valueFrom.secretKeyRef.name=s"
    )
    render(values_of((), f"{GOOD},{settings}"))


def test_a_ray_job_takes_the_address_of_a_server() -> None:
    given = "ingest.arguments={--uri,http://other:19530,--force},ingest.extraEnv[0].name=MILVUS_COOP_URI,ingest.extraEnv[0].value=https://a"
    render(values_of((), f"{GOOD},{RAY},{given}"))
    render(values_of((), f"{GOOD},{INGEST},ingest.arguments={{--uri=lite.db}}"))


@pytest.mark.parametrize("settings", ["gateway.options.timeoutS=12.5", "timeoutSeconds=2.5", "triton.autoscaling.target=2"])
def test_numbers_of_the_command_line_are_taken(settings: str) -> None:
    """`--set` makes strings of fractions and numbers of whole ones."""
    render(values_of((), f"{GOOD},{settings},triton.autoscaling.enabled=true"))


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    known = set(paths_of_schema(schema, schema["$defs"]))
    given = set(paths_of(values))
    assert given - known == set()
    optional = {".global"} | {path for path in known if path.startswith((".gateway.options.",))}
    assert {path for path in known - given - optional if not path.endswith((".requests", ".limits", ".claims"))} == set()


def paths_of(values: dict[str, Any], at: str = "") -> Iterator[str]:
    for key, value in values.items():
        if at.endswith((".requests", ".limits", "Labels", ".labels")):
            return
        yield f"{at}.{key}"
        if isinstance(value, dict):
            yield from paths_of(value, f"{at}.{key}")


def paths_of_schema(schema: dict[str, Any], definitions: dict[str, Any], at: str = "") -> Iterator[str]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for key, value in schema.get("properties", {}).items():
        yield f"{at}.{key}"
        yield from paths_of_schema(value, definitions, f"{at}.{key}")


def test_options_of_the_schema_are_options_of_the_service() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    given = schema["properties"]["gateway"]["properties"]["options"]["properties"]
    names = {re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", key) for key in given}
    elsewhere = {"host", "port", "root_path", "api_keys", "key_filters", "anonymous", "cors_origins", "roots", "uploads"}
    unneeded = {"models_only"}
    assert names == set(GatewayOptions.__dataclass_fields__) - elsewhere - unneeded


def test_every_value_is_explained() -> None:
    """At its own line, or at the key right above it."""
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 300
    assert max(map(len, lines)) <= 132
    explained: dict[int, bool] = {}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if match := re.match(r"( *)(?:- )?[\w./]+:", line):
            depth, below = len(match[1]), len(following) - len(following.lstrip())
            explained = {d: known for d, known in explained.items() if d < depth} | {depth: " # " in line}
            is_section = below > depth
            assert is_section or any(known for d, known in explained.items() if d or depth == 0), line
