"""The chart as Helm 4's own engine renders it, and what a kubelet would make of it."""

from __future__ import annotations

import functools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "milvus-coop"
_BARE = tempfile.TemporaryDirectory(prefix="milvus-coop-chart-")
BARE = Path(shutil.copytree(CHART, Path(_BARE.name, CHART.name), ignore=shutil.ignore_patterns("charts", "Chart.lock")))
"""The chart without a Milvus chart, which whoever has installed it has there."""
RELEASE, NAMESPACE = "demo", "search"

Values = Mapping[str, Any]
Manifest = dict[str, Any]

EXTERNAL = "milvusClient.uri=https://milvus.example.com:19530"
KEYS = "gateway.apiKeysSecret.name=gateway-keys"
INGEST = "ingest.enabled=true,pictures.existingClaim=photos"

CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "cpu": (("cpu",), ""),
    "gpu": (("gpu",), f"{EXTERNAL},{KEYS}"),
    "ha": (("gpu", "ha"), f"{EXTERNAL},{KEYS}"),
    "in process": ((), f"{EXTERNAL},{KEYS},triton.enabled=false"),
    "another Triton": (
        (),
        f"{EXTERNAL},{KEYS},triton.enabled=false,triton.externalUri=tritons://triton.ai:8001,triton.tokenSecret.name=t",
    ),
    "TLS": (
        ("gpu",),
        f"{EXTERNAL},{KEYS},milvusClient.tokenSecret.name=zilliz,milvusClient.caSecret.name=ca,triton.keySecret.name=key,"
        "triton.tls.enabled=true,triton.tls.secret=server,triton.tls.mutual=true,triton.tls.clientSecret=client",
    ),
    "own bundle": (
        ("gpu",),
        f"{EXTERNAL},{KEYS},{INGEST},bundle.name=/bundles/BLIP_base.2,bundle.existingClaim=bundles,"
        "tokenStore.uri=/tokens,tokenStore.existingClaim=tokens",
    ),
    "ingest job": (("cpu",), INGEST),
    "ingest by the clock": (("cpu",), f"{INGEST},ingest.schedule=0 3 * * *,ingest.arguments={{--prune}}"),
    "ingest in shards": (
        ("cpu",),
        f"{INGEST},ingest.shards=4,ingest.parallelism=2,ingest.sources={{/pictures/part-$(JOB_COMPLETION_INDEX).jsonl}}",
    ),
    "ingest on Ray": (
        ("cpu",),
        f"{INGEST},ingest.engine=ray,ingest.maxFailures=1000,ingest.ray.state=s3://bucket/state,ingest.ray.cpu.workers=2,"
        "ingest.sources={s3://bucket/the photos/,s3://bucket/{0..9\\}.tar},ingest.arguments={--force},ingest.nodeSelector.disk=ssd,"
        "ingest.extraEnv[0].name=AWS_SECRET_ACCESS_KEY,ingest.extraEnv[0].valueFrom.secretKeyRef.name=s3,"
        "ingest.extraEnv[0].valueFrom.secretKeyRef.key=key",
    ),
    "ingest on Ray with GPUs": (
        ("gpu",),
        f"{EXTERNAL},{KEYS},{INGEST},ingest.engine=ray,ingest.ray.cpu.replicas=0,ingest.ray.gpu.replicas=4,ingest.ray.gpu.workers=3,"
        "ingest.ray.gpu.nodeSelector.gpu=yes,ingest.ray.gpu.tolerations[0].key=nvidia.com/gpu,ingest.ray.gpu.tolerations[0].operator=Exists,"
        "tokenStore.uri=/tokens,tokenStore.existingClaim=tokens,ingest.ray.state=/tokens/state,milvusClient.tokenSecret.name=milvus",
    ),
    "keda, ratio": (
        ("gpu",),
        f"{EXTERNAL},{KEYS},triton.autoscaling.enabled=true,triton.autoscaling.kind=keda,"
        "triton.autoscaling.prometheusUrl=http://prometheus:9090",
    ),
    "keda, pending": (
        ("gpu",),
        f"{EXTERNAL},{KEYS},triton.autoscaling.enabled=true,triton.autoscaling.kind=keda,"
        "triton.autoscaling.prometheusUrl=http://prometheus:9090,triton.autoscaling.metric=pending",
    ),
    "everything else": (
        ("cpu",),
        f"{KEYS},gateway.anonymous=false,uploads.existingClaim=up,pictures.existingClaim=photos,pictures.subPath=year/2026,"
        "gateway.ingress.enabled=true,gateway.ingress.host=search.example.com,gateway.ingress.path=/team/pictures,gateway.ingress.tlsSecret=tls,gateway.ingress.className=nginx,"
        "gateway.tracing.enabled=true,gateway.tracing.endpoint=http://collector:4318,gateway.options.maxK=200,gateway.options.shutdownS=12.5,"
        "gateway.options.allowedHosts={images.example.com},"
        "gateway.options.rateLimit=2.5,gateway.options.rateBurst=20,gateway.keyFiltersSecret.name=filters,"
        "gateway.options.maxBodyMb=8,gateway.corsOrigins={https://example.com},gateway.service.type=LoadBalancer,gateway.replicas=2,"
        "image.registry=registry.example.com/team,image.pullSecrets={pull},image.tag=v9,podSecurity.runAsUser=null,"
        "gateway.nodeSelector.disk=ssd,gateway.tolerations[0].key=dedicated,gateway.tolerations[0].operator=Exists,"
        "networkPolicy.gatewayFrom[0].podSelector.matchLabels.app=ingress,triton.replicas=3,triton.runtimeClassName=nvidia,"
        "gateway.image.digest=sha256:"
        + 64 * "a"
        + ",fullnameOverride=pictures,serviceAccount.create=false,serviceAccount.name=robot",
    ),
    "IPv6": (("gpu",), f"{EXTERNAL},{KEYS},gateway.host=::,triton.host=::"),
    "IPv6 on CPUs": (("cpu",), "gateway.host=::,triton.host=::"),
    "no policies": (
        ("gpu",),
        f"{EXTERNAL},{KEYS},networkPolicy.enabled=false,podDisruptionBudget.enabled=false,triton.planCache.enabled=false",
    ),
}
"""Name -> profiles, and what `--set` adds: the profiles, and the toggles that change much."""


@dataclass(frozen=True)
class Rendered:
    """What an installation would apply."""

    documents: tuple[Manifest, ...]
    notes: str

    def of_kind(self, kind: str) -> list[Manifest]:
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        """The only object of a kind whose name ends like that."""
        (found,) = (document for document in self.of_kind(kind) if document["metadata"]["name"].endswith(name))
        return found

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Name and pod (metadata and spec) of everything that makes pods."""
        for document in self.documents:
            name = f"{document['kind']} {document['metadata']['name']}"
            if document["kind"] in ("Deployment", "Job"):
                yield name, document["spec"]["template"]
            elif document["kind"] == "CronJob":
                yield name, document["spec"]["jobTemplate"]["spec"]["template"]
            elif document["kind"] == "RayJob":
                cluster = document["spec"]["rayClusterSpec"]
                yield f"{name} head", cluster["headGroupSpec"]["template"]
                for group in cluster["workerGroupSpecs"]:
                    yield f"{name} {group['groupName']}", group["template"]
                yield f"{name} submitter", document["spec"]["submitterPodTemplate"]
            elif document["kind"] == "Pod":
                yield name, document

    def containers(self) -> Iterator[tuple[str, Manifest]]:
        for name, pod in self.pods():
            for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
                yield f"{name} {container['name']}", container

    def environment(self, container: Manifest, secrets: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables of a container, as a kubelet would set them. `secrets`: the value of each variable that is a secret."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            found |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for entry in container.get("env", ()):
            if "value" in entry:
                found[entry["name"]] = expand(entry["value"], found)
            elif secrets and entry["name"] in secrets:
                found[entry["name"]] = secrets[entry["name"]]
            else:
                found[entry["name"]] = f"<{entry['name']}>"
        return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` as the kubelet expands it."""
    return re.sub(r"\$\(([A-Z_]+)\)", lambda match: variables.get(match[1], match[0]), text)


def values_of(profiles: tuple[str, ...], settings: str = "") -> dict[str, Any]:
    """Profiles on top of each other, and `--set` on top of them."""
    values: dict[str, Any] = {}
    for profile in profiles:
        merge(values, yaml.safe_load((CHART / f"values-{profile}.yaml").read_text(encoding="utf-8")))
    if settings:
        merge(values, helm_python.parse_set_string(settings))
    return values


def merge(base: dict[str, Any], other: Values) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


def render(values: Values, *, chart: Path = BARE, release: str = RELEASE) -> Rendered:
    """Render with Helm.

    Raises:
        helm_python.HelmError: Helm refuses.
    """
    with helm_python.Chart.load(chart) as loaded:
        files = loaded.render(dict(values), name=release, namespace=NAMESPACE)
    documents = [
        document
        for path, text in sorted(files.items())
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]
    (notes,) = (text for path, text in files.items() if path == "milvus-coop/templates/NOTES.txt")
    return Rendered(tuple(documents), notes)


@functools.cache
def rendered(case: str) -> Rendered:
    """One of CASES."""
    return render(values_of(*CASES[case]))


def refusal(settings: str, *profiles: str) -> str:
    """What Helm says to values that it refuses."""
    try:
        render(values_of(profiles, settings))
    except helm_python.HelmError as exc:
        return str(exc)
    raise AssertionError(f"Helm took {settings}")


def text_of(document: Manifest) -> str:
    return json.dumps(document)
