"""What every pod must be: unprivileged, bounded, configured by variables that the code reads, and asked the right questions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

import pytest

from milvus_coop.config import PREFIX, Settings
from milvus_coop.serving.gateway import options
from milvus_coop.serving.gateway.options import GatewayOptions
from tests.helm.kit import CASES, Rendered, expand, rendered, text_of

every_case = pytest.mark.parametrize("case", CASES)
READ = {PREFIX + item.name.upper() for item in fields(Settings)} | {
    options.PREFIX + item.name.upper() for item in fields(GatewayOptions)
}
STANDARD = {"HOME", "OTEL_EXPORTER_OTLP_ENDPOINT", "RAY_USAGE_STATS_ENABLED", "AWS_SECRET_ACCESS_KEY"}
SECRETS = {
    "MILVUS_COOP_TOKEN",
    "MILVUS_COOP_SERVE_API_KEYS",
    "MILVUS_COOP_SERVE_KEY_FILTERS",
    "MILVUS_COOP_TRITON_TOKEN",
    "TRITON_KEY",
}


@every_case
def test_pods_are_restricted(case: str) -> None:
    """The level `restricted` of Kubernetes' pod security standards, and a read-only root on top of it."""
    for name, pod in rendered(case).pods():
        spec = pod["spec"]
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["securityContext"].get("runAsUser", 1) != 0
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
        assert {key for volume in spec["volumes"] for key in volume} - {"name"} <= allowed
    for name, container in rendered(case).containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name
        assert not any("hostPort" in port for port in container.get("ports", ()))
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], "with a read-only root, a place to write"


@every_case
def test_pods_have_no_token_and_no_variables_of_services(case: str) -> None:
    """A service named milvus-coop-serve would otherwise set MILVUS_COOP_SERVE_PORT to tcp://10.0.0.1:8080."""
    for name, pod in rendered(case).pods():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["enableServiceLinks"] is False, name
    assert all(account["automountServiceAccountToken"] is False for account in rendered(case).of_kind("ServiceAccount"))


@every_case
def test_pods_are_bounded(case: str) -> None:
    for name, container in rendered(case).containers():
        assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["requests"].keys(), name
        assert {"memory", "ephemeral-storage"} <= container["resources"]["limits"].keys(), name
    for name, pod in rendered(case).pods():
        for volume in pod["spec"]["volumes"]:
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                assert volume["emptyDir"]["sizeLimit"], name


@every_case
def test_every_variable_is_read(case: str) -> None:
    found = rendered(case)
    for name, container in found.containers():
        texts = [*container.get("args", ()), *(entry.get("value", "") for entry in container.get("env", ()))]
        for variable in found.environment(container):
            expanded = any(f"$({variable})" in text for text in texts)
            assert variable in READ | STANDARD or expanded, f"{name}: nothing reads {variable}"


@every_case
def test_the_code_takes_the_variables(case: str) -> None:
    found = rendered(case)
    for name, container in found.containers():
        if container.get("envFrom"):
            environment = found.environment(container)
            settings = Settings.from_env(environment)
            assert settings.uri.startswith("http"), name
            assert settings.models == "onnx" or settings.models.startswith(("triton", "onnx:cuda"))
            assert settings.timeout_s == 10
    (gateway,) = found.one("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"]
    keys = ("0123456789abcdef", "fedcba9876543210")
    filters = {hashlib.sha256(key.encode()).hexdigest(): f"tenant == '{key}'" for key in keys}
    secrets = {"MILVUS_COOP_SERVE_API_KEYS": ",".join(keys), "MILVUS_COOP_SERVE_KEY_FILTERS": json.dumps(filters)}
    environment = found.environment(gateway, secrets)
    parsed = GatewayOptions.from_env({name: value for name, value in environment.items() if name != "MILVUS_COOP_SERVE_ROOTS"})
    parsed.check()
    assert (parsed.host, parsed.port) == ("::" if case.startswith("IPv6") else "0.0.0.0", 8080)
    assert bool(parsed.api_keys) != parsed.anonymous


def test_options_reach_the_gateway() -> None:
    found = rendered("everything else")
    (gateway,) = found.one("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"]
    parsed = GatewayOptions.from_env(found.environment(gateway))
    assert (parsed.max_k, parsed.shutdown_s, parsed.max_body_mb) == (200, 12.5, 8)
    assert (parsed.rate_limit, parsed.rate_burst) == (2.5, 20)
    assert parsed.key_filters == "<MILVUS_COOP_SERVE_KEY_FILTERS>", "from its Secret"
    assert parsed.cors_origins == ("https://example.com",)
    (smoke,) = found.one("Pod", "-test")["spec"]["containers"]
    asked = urlsplit(smoke["args"][1]).hostname
    assert parsed.hosts[0] == "images.example.com"
    assert {asked, f"{asked}.search.svc", "search.example.com", "127.0.0.1"} < set(parsed.hosts)
    (other,) = rendered("cpu").one("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"]
    assert GatewayOptions.from_env(rendered("cpu").environment(other)).hosts == ("*",)
    assert parsed.root_path == found.one("Ingress", "-gateway")["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/team/pictures"
    assert "https://search.example.com/team/pictures/v1/search" in found.notes
    assert (parsed.roots, parsed.uploads) == (("/pictures",), "/uploads")
    assert gateway["args"] == ["serve", "--log", "json", "--trace"]
    assert found.environment(gateway)["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
    assert gateway["image"] == "registry.example.com/team/milvus-coop/gateway@sha256:" + 64 * "a"


@every_case
def test_secrets_are_only_referred_to(case: str) -> None:
    found = rendered(case)
    assert found.of_kind("Secret") == []
    for name, container in found.containers():
        for entry in container.get("env", ()):
            if entry["name"] in SECRETS:
                assert entry.keys() == {"name", "valueFrom"}, name
                assert entry["valueFrom"].keys() == {"secretKeyRef"}
    for config in found.of_kind("ConfigMap"):
        assert not SECRETS & config["data"].keys()


def test_the_server_keeps_its_private_key() -> None:
    found = rendered("TLS")
    pod = found.one("Deployment", "-gateway")["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "triton-tls")
    items = {s["secret"]["name"]: [i["key"] for i in s["secret"]["items"]] for s in volume["projected"]["sources"]}
    assert items == {"server": ["ca.crt"], "client": ["tls.crt", "tls.key"]}
    settings = Settings.from_env(found.environment(pod["containers"][0]))
    assert settings.models.startswith("tritons://")
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    for path in (settings.triton_ca_file, settings.triton_cert_file, settings.triton_key_file, settings.ca_file):
        assert path.rpartition("/")[0] in mounts
    assert settings.triton_headers == "triton-grpc-protocol-key=<TRITON_KEY>"
    assert settings.token == "<MILVUS_COOP_TOKEN>"


@every_case
def test_the_gateway_is_asked_the_right_questions(case: str) -> None:
    (gateway,) = rendered(case).one("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"]
    assert path_of(gateway["livenessProbe"]) == path_of(gateway["startupProbe"]) == "/healthz", (
        "an outage elsewhere restarts nothing"
    )
    assert path_of(gateway["readinessProbe"]) == "/readyz"
    assert gateway["readinessProbe"]["timeoutSeconds"] > Settings().timeout_s, "long enough to hear why it is not ready"
    pod = rendered(case).one("Deployment", "-gateway")["spec"]["template"]["spec"]
    (stop,) = (int(part) for part in gateway["lifecycle"]["preStop"]["exec"]["command"] if part.isdecimal())
    environment = rendered(case).environment(gateway)
    shutdown_s = GatewayOptions.from_env(environment).shutdown_s
    assert pod["terminationGracePeriodSeconds"] > stop + shutdown_s


def path_of(probe: dict[str, Any]) -> str:
    path = probe["httpGet"]["path"]
    assert isinstance(path, str)
    return path


@pytest.mark.parametrize("case", ["cpu", "gpu", "ha", "TLS"])
def test_triton_is_asked_the_right_questions(case: str) -> None:
    spec = rendered(case).one("Deployment", "-triton")["spec"]
    (server,) = spec["template"]["spec"]["containers"]
    assert path_of(server["readinessProbe"]) == path_of(server["startupProbe"]) == "/v2/health/ready"
    assert path_of(server["livenessProbe"]) == "/v2/health/live"
    assert server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"] == 600
    assert spec["progressDeadlineSeconds"] > 600
    for init in spec["template"]["spec"]["initContainers"]:
        assert not {"startupProbe", "livenessProbe"} & init.keys(), "plans may take as long as they take"


@pytest.mark.parametrize("case", ["cpu", "gpu", "TLS"])
def test_triton_is_locked(case: str) -> None:
    (server,) = rendered(case).one("Deployment", "-triton")["spec"]["template"]["spec"]["containers"]
    arguments = server["args"]
    for argument in ("--model-control-mode=none", "--strict-readiness=true", "--exit-on-error=true"):
        assert argument in arguments
    grpc, *more = (argument.partition("=")[2] for argument in arguments if argument.startswith("--grpc-restricted-protocol="))
    (http,) = (argument.partition("=")[2] for argument in arguments if argument.startswith("--http-restricted-api="))
    assert grpc == "shared-memory,model-repository,statistics,trace,logging:pod=$(POD_UID)"
    assert {"inference", "shared-memory", "model-repository"} <= set(http.partition(":")[0].split(","))
    assert "health" not in http, "the kubelet asks it"
    assert more == (["inference,metadata,model-config:key=$(TRITON_KEY)"] if case == "TLS" else [])
    assert ("--grpc-use-ssl-mutual=true" in arguments) == (case == "TLS")
    models = next(mount for mount in server["volumeMounts"] if mount["name"] == "models")
    assert models["readOnly"] is True


@pytest.mark.parametrize("case", ["cpu", "gpu", "everything else", "ingest on Ray"])
def test_only_clients_reach_triton_and_it_reaches_nothing(case: str) -> None:
    found = rendered(case)
    policy = found.one("NetworkPolicy", "-triton")["spec"]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])
    ports = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    assert ports.keys() == {"grpc", "metrics"}
    reached = {name for name, pod in found.pods() if selected_by(ports["grpc"], pod["metadata"]["labels"])}
    assert {name.partition(" ")[0] for name in reached} <= {"Deployment", "Pod", "Job", "CronJob", "RayJob"}
    assert not any("triton" in name for name in reached)
    assert len(reached) >= 2
    gateway = found.one("NetworkPolicy", "-gateway")["spec"]["ingress"][0]
    assert ("from" in gateway) == (case == "everything else")


def selected_by(peers: list[dict[str, Any]], labels: dict[str, str]) -> bool:
    return any(peer["podSelector"]["matchLabels"].items() <= labels.items() for peer in peers)


def test_only_its_pods_and_the_operator_reach_a_ray_cluster() -> None:
    """Whoever reaches it can run any code in it."""
    found = rendered("ingest on Ray")
    policy = found.one("NetworkPolicy", "-ingest")["spec"]
    inside, operator = policy["ingress"][0]["from"]
    labels = {name: pod["metadata"]["labels"] for name, pod in found.pods()}
    reached = {name for name, of_pod in labels.items() if policy["podSelector"]["matchLabels"].items() <= of_pod.items()}
    assert reached == {name for name in labels if name.startswith("RayJob ")}
    assert reached == {name for name, of_pod in labels.items() if selected_by([inside], of_pod)}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    assert policy["policyTypes"] == ["Ingress"]
    assert len(rendered("ingest job").of_kind("NetworkPolicy")) == 2


def test_the_test_runs_where_the_gateway_does() -> None:
    found = rendered("everything else")
    gateway = found.one("Deployment", "-gateway")["spec"]["template"]["spec"]
    test = found.one("Pod", "-test")["spec"]
    for key in ("nodeSelector", "tolerations"):
        assert test[key] == gateway[key], key
    assert not {"nodeSelector", "tolerations"} & rendered("cpu").one("Pod", "-test")["spec"].keys()


def test_no_policies_where_none_are_wanted() -> None:
    assert rendered("no policies").of_kind("NetworkPolicy") == []
    assert "plans" not in {
        d["metadata"]["name"].rpartition("-")[2] for d in rendered("no policies").of_kind("PersistentVolumeClaim")
    }


def test_pictures_are_read_only_and_where_their_uris_say() -> None:
    """Ingest writes paths into the collection, and the gateway shows what is there: both see the claim at the same place."""
    found = rendered("own bundle")
    mounts = {
        name: {mount["name"]: mount for mount in container["volumeMounts"]}
        for name, container in found.containers()
        if container["name"] in ("gateway", "ingest")
    }
    assert len(mounts) == 2
    for of_container in mounts.values():
        assert of_container["pictures"] == {"name": "pictures", "mountPath": "/pictures", "readOnly": True}
        assert of_container["bundles"]["readOnly"] is True
    writes = {name: not of_container["tokens"].get("readOnly", False) for name, of_container in mounts.items()}
    assert sorted(writes.values()) == [False, True]
    assert next(value for name, value in writes.items() if "ingest" in name)


def test_the_case_with_everything_has_a_user_of_the_cluster() -> None:
    for _, pod in rendered("everything else").pods():
        assert "runAsUser" not in pod["spec"]["securityContext"]
        assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]


def test_expansion_is_the_kubelets() -> None:
    assert expand("a $(B) $(C)", {"B": "x"}) == "a x $(C)"
    assert "demo" in text_of(Rendered(rendered("cpu").documents[:1], "").documents[0])
