"""Every profile and the toggles that change much: Helm takes them, and so does Kubernetes, oldest, newest and between."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.helm import kuberay
from tests.helm.kit import (
    BARE,
    CASES,
    CHART,
    INGEST,
    NAMESPACE,
    RELEASE,
    Manifest,
    Rendered,
    expand,
    render,
    rendered,
    text_of,
    values_of,
)

VERSIONS = ("1.29", "1.31", "1.34", "1.37")
FOREIGN = {
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "RayJob": kuberay.API_VERSION,
}
"""Kinds that Kubernetes itself does not know."""
ON_RAY = [case for case in CASES if "Ray" in case]
every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_lint(case: str) -> None:
    report = helm_python.lint(BARE, values_of(*CASES[case]))
    assert report["errors"] == []
    said = {message["error"] for message in report["messages"]}
    assert said == {"icon is recommended", "chart directory is missing these dependencies: milvus"}


@every_case
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_it(case: str, version: str) -> None:
    for document in rendered(case).documents:
        if document["kind"] in FOREIGN:
            assert document["apiVersion"] == FOREIGN[document["kind"]]
        else:
            validate(text_of(document), version)
    for name, pod in rendered(case).pods():
        if name.startswith("RayJob "):
            validate(text_of({"apiVersion": "v1", "kind": "Pod", **pod}), version)


@functools.cache
def validate(document: str, version: str) -> None:
    """Most cases have most objects in common."""
    kubernetes_validate.validate(json.loads(document), version, strict=True)


def test_the_oldest_version_is_the_one_that_the_chart_names() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">={VERSIONS[0]}.0-0"
    assert kubernetes_validate.latest_version().startswith(VERSIONS[-1])


def test_the_validation_has_teeth() -> None:
    deployment = rendered("cpu").one("Deployment", "gateway")
    wrong = yaml.safe_load(yaml.safe_dump(deployment))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("case", ON_RAY)
def test_kuberay_takes_it(case: str) -> None:
    job = rendered(case).one("RayJob", "-ingest-1")
    kuberay.validate(job)
    assert len(job["metadata"]["name"]) <= 47, "what KubeRay allows"


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("", "entryPoint"),
        ("rayClusterSpec", "workerGroupSpec"),
        ("rayClusterSpec headGroupSpec", "rayStartParam"),
        ("rayClusterSpec headGroupSpec template spec", "serviceaccountName"),
        ("rayClusterSpec headGroupSpec template spec containers 0", "livenessprobe"),
        ("rayClusterSpec workerGroupSpecs 0", "replica"),
        ("rayClusterSpec workerGroupSpecs 0 template metadata", "label"),
        ("submitterPodTemplate spec containers 0 securityContext", "runAsNonroot"),
    ],
)
def test_a_misspelt_field_of_a_ray_job_is_found(path: str, wrong: str) -> None:
    job = json.loads(text_of(rendered("ingest on Ray").one("RayJob", "-ingest-1")))
    at = job["spec"]
    for step in path.split():
        at = at[int(step) if step.isdecimal() else step]
    at[wrong] = {}
    with pytest.raises(jsonschema.ValidationError, match=f"'{wrong}' was unexpected"):
        kuberay.validate(job)


def test_a_wrong_type_in_a_ray_job_is_found() -> None:
    job = json.loads(text_of(rendered("ingest on Ray").one("RayJob", "-ingest-1")))
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError, match="0 is not of type 'string'"):
        kuberay.validate(job)


@every_case
def test_names_are_names_and_none_is_twice(case: str) -> None:
    assert_names(rendered(case))


def assert_names(found: Rendered) -> None:
    names = [(document["kind"], document["metadata"]["name"]) for document in found.documents]
    assert len(set(names)) == len(names)
    for _, name in names:
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name), "as that of a Service has to be"


@pytest.mark.parametrize("release", ["my.shop", "2.demo", "7", "a." + 24 * "b." + "c", "x" * 35 + ".y", "milvus-coop.v2"])
def test_names_of_a_release_that_is_no_label(release: str) -> None:
    """Helm takes dots in the name of a release; Kubernetes does not in that of a Service."""
    found = render(values_of(*CASES["ha"]), release=release)
    assert_names(found)
    for document in found.documents:
        if document["kind"] not in FOREIGN:
            validate(text_of(document), VERSIONS[-1])
    service = found.one("Service", "-gateway")["metadata"]["name"]
    (test,) = found.one("Pod", "-test")["spec"]["containers"]
    assert test["args"][1] == f"http://{service}:8080"


@every_case
def test_selectors_match(case: str) -> None:
    found = rendered(case)
    labels = {name: pod["metadata"]["labels"] for name, pod in found.pods()}
    for deployment in found.of_kind("Deployment"):
        assert_selects(deployment["spec"]["selector"]["matchLabels"], labels, {f"Deployment {deployment['metadata']['name']}"})
    for service in found.of_kind("Service"):
        selected = assert_selects(service["spec"]["selector"], labels)
        ports = {port["name"] for name, pod in found.pods() if name in selected for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for document in found.of_kind(kind):
            selector = document["spec"].get("selector") or document["spec"]["podSelector"]
            selected = assert_selects(selector["matchLabels"], labels)
            assert len(selected) == 1 or all(name.startswith("RayJob ") for name in selected)
    services = [service["metadata"]["labels"] for service in found.of_kind("Service")]
    for monitor in found.of_kind("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (service for service in found.of_kind("Service") if wanted <= service["metadata"]["labels"].items())
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert service["metadata"]["labels"] in services


def assert_selects(selector: dict[str, str], labels: dict[str, dict[str, str]], expected: set[str] | None = None) -> set[str]:
    """What it selects: something, and if given, just that."""
    selected = {name for name, of_pod in labels.items() if selector.items() <= of_pod.items()}
    assert selected
    assert expected is None or selected == expected
    return selected


@every_case
def test_what_is_referred_to_is_there(case: str) -> None:
    found = rendered(case)
    accounts = {document["metadata"]["name"] for document in found.of_kind("ServiceAccount")} | {"default", "robot"}
    for name, pod in found.pods():
        spec = pod["spec"]
        assert spec["serviceAccountName"] in accounts, name
        volumes = [volume["name"] for volume in spec["volumes"]]
        assert len(set(volumes)) == len(volumes)
        mounted = set()
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(set(mounts)) == len(mounts)
            mounted |= {mount["name"] for mount in container["volumeMounts"]}
            for source in container.get("envFrom", ()):
                found.one("ConfigMap", source["configMapRef"]["name"])
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports
        assert mounted == set(volumes), name
    for scaler in (*found.of_kind("HorizontalPodAutoscaler"), *found.of_kind("ScaledObject")):
        target = found.one("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"], "the autoscaler decides"


@every_case
def test_every_variable_in_an_argument_is_set(case: str) -> None:
    for name, container in rendered(case).containers():
        variables = {entry["name"]: "x" for entry in container.get("env", ())}
        for argument in container.get("args", ()):
            left = expand(argument, variables).replace("$(JOB_COMPLETION_INDEX)", "0" if "ingest" in name else "$(not here)")
            assert "$(" not in left, f"{name}: {argument}"


def test_clients_see_every_triton_pod() -> None:
    found = rendered("ha")
    service = found.one("Service", "triton-coop-small")
    assert service["spec"]["clusterIP"] == "None"
    address = f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert found.one("ConfigMap", "settings")["data"]["MILVUS_COOP_MODELS"] == f"triton://{address}:8001"
    assert any("--grpc-max-connection-age=60000" in argument for argument in triton(found)["args"])


def triton(found: Rendered) -> Manifest:
    (container,) = found.one("Deployment", "-triton")["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_another_bundle_is_another_service() -> None:
    """A client of one bundle never meets a pod that serves another, also while pods are being replaced."""
    found = rendered("own bundle")
    service = found.one("Service", "triton-blip-base-2-85f920")
    pod = found.one("Deployment", "-triton")["spec"]["template"]
    assert (
        service["spec"]["selector"]["milvus-coop/bundle"] == pod["metadata"]["labels"]["milvus-coop/bundle"] == "blip-base-2-85f920"
    )
    assert "milvus-coop/bundle" not in found.one("Deployment", "-triton")["spec"]["selector"]["matchLabels"]


def test_no_two_bundles_share_a_service() -> None:
    """A name that does not fit a Service's has a hash; the name of a shipped bundle fits."""
    names = [
        *("coop-small", "/bundles/coop-small", "clip-vit-base-patch32-2024", "clip-vit-base-patch32-2025"),
        *("/bundles/Blip_A.1", "/bundles/Blip-A-1", "/bundles/blip-a-1", "/bundles/a/blip-a-1", "2024", "/bundles/___"),
    ]
    found = set()
    for name in names:
        chart = render(values_of(("cpu",)) | {"bundle": {"name": name, "existingClaim": "bundles"}})
        (service,) = (one for one in chart.of_kind("Service") if "-triton-" in one["metadata"]["name"])
        label = service["spec"]["selector"]["milvus-coop/bundle"]
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", label)
        assert len(service["metadata"]["name"]) <= 63
        assert service["metadata"]["name"] == f"demo-milvus-coop-triton-{label}"
        found.add(label)
    assert len(found) == len(names)
    assert {"coop-small", "2024"} <= found


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(("cpu", "gpu", "ha"), 2)))
def test_an_upgrade_changes_no_claim(before: str, after: str) -> None:
    """Kubernetes refuses to change the access modes of a claim that is there."""
    old, new = (
        {one["metadata"]["name"]: one["spec"] for one in rendered(case).of_kind("PersistentVolumeClaim")}
        for case in (before, after)
    )
    assert all(new[name] == old[name] for name in old.keys() & new.keys())
    assert len(rendered("ha").of_kind("PersistentVolumeClaim")) == 1


def test_the_notes_name_the_certificate() -> None:
    chart = rendered("TLS")
    (service,) = (one["metadata"]["name"] for one in chart.of_kind("Service") if "-triton-" in one["metadata"]["name"])
    assert f"must be for {service}.search.svc." in chart.notes


def test_a_gpu_pod_builds_plans_where_they_are_served() -> None:
    spec = rendered("gpu").one("Deployment", "-triton")["spec"]["template"]["spec"]
    export, plans = spec["initContainers"]
    (server,) = spec["containers"]
    assert (plans["image"], export["image"]) == (server["image"], "milvus-coop/gateway:0.1.0")
    assert plans["resources"]["limits"]["nvidia.com/gpu"] == server["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in export["resources"]["limits"]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    (cache,) = (volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"] if volume["name"] == "plans")
    rendered("gpu").one("PersistentVolumeClaim", cache)
    cpu = rendered("cpu").one("Deployment", "-triton")["spec"]["template"]["spec"]
    assert "nvidia" not in str(cpu)


def test_budgets_are_only_for_several() -> None:
    assert {document["metadata"]["name"] for document in rendered("ha").of_kind("PodDisruptionBudget")} == {
        "demo-milvus-coop-gateway",
        "demo-milvus-coop-triton",
    }
    assert rendered("cpu").of_kind("PodDisruptionBudget") == []  # one pod with a budget would keep its node from being drained


def test_shards_have_their_own_sources() -> None:
    job = rendered("ingest in shards").one("Job", "ingest-1")["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 2)
    assert job["template"]["spec"]["containers"][0]["args"][-1] == "/pictures/part-$(JOB_COMPLETION_INDEX).jsonl"
    cron = rendered("ingest by the clock").one("CronJob", "ingest")["spec"]
    assert cron["schedule"] == "0 3 * * *"
    assert cron["concurrencyPolicy"] == "Forbid"


def test_a_ray_job_has_the_workers_that_its_driver_asks_for() -> None:
    for case, group, workers, cores, share in (
        ("ingest on Ray", "cpu", 4, "4", None),
        ("ingest on Ray with GPUs", "gpu", 12, "6", 0.3333),
    ):
        spec = rendered(case).one("RayJob", "-ingest-1")["spec"]
        words = shlex.split(spec["entrypoint"])
        options = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)
        assert words[:2] == ["milvus-coop", "ingest"]
        assert (options["engine"], options["address"], options["workers"]) == ("ray", "auto", str(workers))
        (found,) = spec["rayClusterSpec"]["workerGroupSpecs"]
        assert found["groupName"] == group
        assert found["minReplicas"] == found["replicas"] == found["maxReplicas"]
        assert found["rayStartParams"]["num-cpus"] == cores
        assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "workers have pods of their own"
        assert float(options.get("gpus-per-worker", 0)) == (share or 0)
        (container,) = found["template"]["spec"]["containers"]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == (1 if share else None)


def test_pods_of_a_ray_job_are_those_of_a_job() -> None:
    """Image, environment, volumes, security and service account; KubeRay adds the command."""
    settings = (
        f"{INGEST},ingest.extraEnv[0].name=A,ingest.extraEnv[0].value=b,ingest.resources.limits.cpu=4,ingest.nodeSelector.disk=ssd"
    )
    job = render(values_of(("cpu",), settings)).one("Job", "-ingest-1")["spec"]["template"]
    on_ray = dict(render(values_of(("cpu",), f"{settings},ingest.engine=ray")).pods())
    (name,) = (name for name in on_ray if name.startswith("RayJob ") and name.endswith(" cpu"))
    worker = on_ray[name]
    (theirs,), (ours,) = job["spec"].pop("containers"), worker["spec"].pop("containers")
    assert job["metadata"] == worker["metadata"]
    assert {**job["spec"], "restartPolicy": "Always"} == worker["spec"]
    assert [entry for entry in ours["env"] if not entry["name"].startswith("RAY_")] == theirs["env"]
    for key in ("image", "imagePullPolicy", "envFrom", "securityContext", "resources", "volumeMounts"):
        assert ours[key] == theirs[key], key


def test_words_of_a_ray_job_pass_two_shells() -> None:
    """KubeRay puts the entrypoint into the command line of a shell, and `ray job submit` quotes its words for another one."""
    sources = [
        "s3://bucket/it's here/",
        "s3://bucket/{0..9}.tar",
        "s3://bucket/**/*.jpg",
        "a&b;c|d",
        "$HOME",
        'say "hi"',
        "~",
        "back\\slash",
    ]
    values = {**values_of(("cpu",), "ingest.enabled=true,ingest.engine=ray")}
    values["ingest"]["sources"] = sources
    entrypoint = render(values).one("RayJob", "-ingest-1")["spec"]["entrypoint"]
    first = subprocess.run(["bash", "-ce", f"printf '%s\\0' {entrypoint} ;"], capture_output=True, text=True, check=True)
    second = shlex.join(first.stdout.split("\0")[:-1])
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {second}"], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[-len(sources) - 1 : -1] == sources


def test_a_milvus_of_this_release(tmp_path: Path) -> None:
    """The Milvus chart is only stubbed: what matters is the address, which follows that chart's way to name its service."""
    chart = shutil.copytree(BARE, tmp_path / "milvus-coop")
    stub = chart / "charts" / "milvus"
    (stub / "templates").mkdir(parents=True)
    (stub / "Chart.yaml").write_text("apiVersion: v1\nname: milvus\nversion: 5.0.19\n")
    (stub / "templates" / "stub.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: stub}\n")
    with_milvus = values_of(("cpu",))
    assert [d["metadata"]["name"] for d in render(with_milvus, chart=chart).of_kind("Service")].count("stub") == 1
    without = values_of(("cpu",), "milvus.enabled=false,milvusClient.uri=http://other:19530")
    assert [d["metadata"]["name"] for d in render(without, chart=chart).of_kind("Service")].count("stub") == 0
    with pytest.raises(helm_python.HelmError, match=r"named my\.shop-milvus; expected: a name without dots"):
        render(with_milvus, chart=chart, release="my.shop")
    for release, name in ((RELEASE, "demo-milvus"), ("milvus-coop", "milvus-coop"), ("my-milvus", "my-milvus")):
        data = render(with_milvus, chart=chart, release=release).one("ConfigMap", "settings")["data"]
        assert data["MILVUS_COOP_URI"] == f"http://{name}:19530"


@every_case
def test_the_notes_name_the_next_command(case: str) -> None:
    notes = rendered(case).notes
    assert f"helm test {RELEASE} --namespace {NAMESPACE}" in notes
    assert "curl -s http" in notes
    if rendered(case).of_kind("Service")[0]["spec"]["type"] == "ClusterIP" and "Ingress" not in str(rendered(case).documents):
        assert "port-forward service/demo-milvus-coop-gateway 8080:8080" in notes
    assert ("authorization: Bearer" in notes) == ("Everybody who can reach" not in notes)
    assert "\n\n\n" not in notes
