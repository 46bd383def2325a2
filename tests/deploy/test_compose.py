"""What the compose files promise: pinned, on loopback, watched, with few rights, without a password of ours."""

from __future__ import annotations

import re
from typing import Any

import pytest

import milvus_coop
from tests.deploy.compose import DEPLOY, FILES, GPU_SERVICES, ROOT, SERVICES, read
from tests.docker import engine

OURS = [name for name, service in SERVICES.items() if service["image"].startswith("milvus-coop/")]
LASTING = [name for name, service in SERVICES.items() if not service.get("profiles")]
IMAGES = sorted({service["image"] for service in (*SERVICES.values(), *GPU_SERVICES.values())})
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))


def test_services() -> None:
    assert sorted(SERVICES) == ["gateway", "ingest", "milvus", "triton"]
    assert sorted(OURS) == ["gateway", "ingest", "triton"]
    assert sorted(LASTING) == ["gateway", "milvus", "triton"]
    assert list(GPU_SERVICES) == ["triton"]


@pytest.mark.parametrize("image", IMAGES)
def test_images_are_pinned(image: str) -> None:
    assert re.search(r"@sha256:[0-9a-f]{64}$|:v?\d+\.\d+\.\d+$", image)
    if image.startswith("milvus-coop/"):
        assert image.endswith(f":{milvus_coop.__version__}")


@pytest.mark.parametrize("name", LASTING)
def test_lasting_services_are_watched_and_restarted(name: str) -> None:
    health = SERVICES[name]["healthcheck"]
    assert health["test"][0] == "CMD"  # no shell
    assert {"interval", "timeout", "retries", "start_period"} < set(health)
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_few_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["build"]["context"] == ".."
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert "privileged" not in service
    assert "user" not in service  # the image's own is not root


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_on_loopback(name: str) -> None:
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for port in SERVICES[name].get("ports", []))


def test_triton_is_reached_only_by_its_clients() -> None:
    assert SERVICES["triton"]["networks"] == ["models"]
    assert "ports" not in SERVICES["triton"]
    assert read(FILES[0])["networks"]["models"] == {"internal": True}
    assert "models" not in SERVICES["milvus"]["networks"]


@pytest.mark.parametrize("name", ["gateway", "ingest"])
def test_who_needs_others_waits_until_they_are_healthy(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {other: {"condition": "service_healthy"} for other in ("milvus", "triton")}


def test_data_is_in_named_volumes() -> None:
    def named(services: dict[str, Any]) -> set[str]:
        mounts = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
        return {mount for mount in mounts if not mount.startswith((".", "$"))}

    assert named(SERVICES) == set(read(FILES[0])["volumes"])
    assert named(GPU_SERVICES) == set(read(FILES[1])["volumes"]) == {"plans"}


def test_milvus_lets_nobody_in_without_a_password() -> None:
    environment = SERVICES["milvus"]["environment"]
    assert environment["COMMON_SECURITY_AUTHORIZATIONENABLED"] == "true"
    assert re.fullmatch(r"\$\{MILVUS_ROOT_PASSWORD:\?.+\}", environment["COMMON_SECURITY_DEFAULTROOTPASSWORD"])
    assert (DEPLOY / "milvus" / "embedEtcd.yaml").is_file()


def test_the_gpu_overlay_reserves_one() -> None:
    (device,) = GPU_SERVICES["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert (ROOT / GPU_SERVICES["triton"]["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    (base,) = re.findall(r"^ARG \w+_IMAGE=(.+)$", text, re.MULTILINE)
    assert re.search(r":\d+\.\d+[.\w-]*$|@sha256:[0-9a-f]{64}$", base)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= {"${PYTHON_IMAGE}", "${TRITON_IMAGE}"}
    last = text[text.rindex("\nFROM ") :]
    assert int(re.findall(r"^USER (\d+):\1$", last, re.MULTILINE)[-1]) >= 1000
    assert f"ARG VERSION={milvus_coop.__version__}" in last
    assert 'org.opencontainers.image.version="${VERSION}"' in last
    assert last.index("\nUSER ") > last.rindex("\nRUN ") if "\nRUN " in last else True
    assert ("HEALTHCHECK" in last) == (path.stem != "ingest")
    assert not re.search(r"https?://(?!localhost)", text)  # nobody's mirror
    assert not re.search(r"^(ARG|ENV).*(PASSWORD|TOKEN|SECRET|API_KEY)", text, re.MULTILINE)


def test_only_the_package_reaches_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert all((ROOT / line[1:]).exists() for line in lines if line.startswith("!"))


def test_the_engine_for_tests_makes_what_they_use() -> None:
    overlay = read(ROOT / "tests" / "docker" / "compose.local.yaml")["services"]
    assert set(engine.IMAGES) == {SERVICES[name]["image"] for name in OURS} | {overlay["milvus"]["image"]}
    assert all((ROOT / path).is_file() for path in engine.IMAGES.values())
