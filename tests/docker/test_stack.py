"""The deployed stack, as a user meets it: start, ingest, search, failures, recovery. In this order."""

from __future__ import annotations

import json
import subprocess

import httpx
import pytest
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from tests.docker.availability import SECRETS, why_not
from tests.docker.conftest import PICTURES, Stack

if reason := why_not():
    pytest.skip(f"{reason}; make docker-test brings what this needs", allow_module_level=True)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

STUBS = """\
import os, pathlib, signal
commands = {path.parent.name: path.read_bytes().split(b'\\0') for path in pathlib.Path('/proc').glob('[0-9]*/cmdline')}
pids = [pid for pid, (program, *arguments) in commands.items()
        if program.endswith(b'triton_python_backend_stub') and b'cross_encoder' in b' '.join(arguments)]
for pid in pids:
    os.kill(int(pid), signal.SIGKILL)
print(len(pids))
"""
"""Kills the processes of the Python backend that run the cross-encoder."""


def ingest(stack: Stack) -> dict[str, float]:
    """The job, over the mounted folder; its report."""
    report: dict[str, float] = json.loads(stack.compose("run", "--rm", "-T", "ingest", "/pictures", "--json"))
    return report


def test_every_container_is_healthy(stack: Stack) -> None:
    containers = [json.loads(line) for line in stack.compose("ps", "--format", "json").splitlines()]
    assert {c["Service"]: c["Health"] for c in containers} == {"milvus": "healthy", "triton": "healthy", "gateway": "healthy"}
    published = [p for c in containers for p in c["Publishers"] if p["PublishedPort"]]
    assert len(published) == 2
    assert {p["URL"] for p in published} == {"127.0.0.1"}


@pytest.mark.parametrize("service", ["triton", "gateway"])
def test_little_is_allowed_inside(stack: Stack, service: str) -> None:
    assert stack.python(service, "import os; print(os.getuid(), os.access('/', os.W_OK), os.access('/opt', os.W_OK))") == (
        "10001 False False"
    )
    assert stack.python(service, "import pathlib; print(pathlib.Path('/tmp/file').write_text('x'))") == "1"
    status = "print([line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapEff', 'NoNewPrivs'))])"
    assert stack.python(service, status) == "['0000000000000000', '1']"


@pytest.mark.parametrize("service", ["triton", "gateway"])
def test_what_is_not_needed_is_not_installed(stack: Stack, service: str) -> None:
    code = "import importlib.util as u; print([m for m in ('torch', 'transformers', 'milvus_lite', 'pip') if u.find_spec(m)])"
    assert stack.python(service, code, "/opt/milvus-coop/bin/python") == "[]"


def test_triton_reaches_nothing_but_its_clients(stack: Stack) -> None:
    milvus = stack.python("gateway", "import socket; print(socket.gethostbyname('milvus'))")
    code = f"import socket\ntry: socket.create_connection(('{milvus}', 19530), 3)\nexcept OSError: print('no way')"
    assert stack.python("triton", code) == "no way"


def test_only_who_has_the_key_is_answered(stack: Stack) -> None:
    assert httpx.get(stack.http.base_url.join("/healthz"), trust_env=False).status_code == 200
    assert httpx.get(stack.http.base_url.join("/v1/collections"), trust_env=False).status_code == 401


def test_ingest_then_search(stack: Stack) -> None:
    pictures = sum(path.suffix in (".jpg", ".png") for path in PICTURES.iterdir())
    report = ingest(stack)
    assert (report["added"], report["failed"]) == (pictures, 0)
    assert ingest(stack)["unchanged"] == pictures
    answer = stack.search("a dog", limit=5)
    assert (answer["reranked"], answer["reranked_count"], answer["reason"]) == (True, pictures, None)
    assert answer["hits"][0]["uri"].endswith("dog.jpg")
    assert [hit["score"] for hit in answer["hits"]] == sorted((hit["ce_score"] for hit in answer["hits"]), reverse=True)
    thumbnail = stack.http.get(answer["hits"][0]["thumbnail"])
    assert (thumbnail.status_code, thumbnail.headers["content-type"]) == (200, "image/jpeg")


def test_rerank_what_milvus_holds(stack: Stack) -> None:
    """The protocol that Milvus servers speak, with the values of the field that they pass."""
    client = MilvusClient(stack.milvus, token=f"root:{SECRETS['MILVUS_ROOT_PASSWORD']}", timeout=20)
    rows = client.query("images", filter="id != ''", output_fields=["uri", "image_tokens"], consistency_level="Strong")
    client.close()
    asked = {"query": "a dog", "documents": [row["image_tokens"] for row in rows], "top_n": 3, "return_documents": False}
    results = stack.http.post("/v1/rerank", json=asked).raise_for_status().json()["results"]
    found = [rows[result["index"]]["uri"] for result in results]
    assert found == [hit["uri"] for hit in stack.search("a dog", limit=3)["hits"]]


def test_nobody_enters_milvus_with_its_factory_password(stack: Stack) -> None:
    with pytest.raises(MilvusException):
        MilvusClient(stack.milvus, token="root:Milvus", timeout=5)


def test_the_job_ends_with_the_exit_code_of_its_command(stack: Stack) -> None:
    done = subprocess.run([*stack.command, "run", "--rm", "-T", "ingest", "/nowhere"], capture_output=True, text=True)
    assert (done.returncode, "/nowhere" in done.stderr) == (2, True), done.stderr


def test_upload_then_search_with_it(stack: Stack) -> None:
    content = (PICTURES / "owl.jpg").read_bytes()
    uploaded = stack.http.post("/v1/items", files={"files": ("mine.jpg", content)}).raise_for_status().json()
    assert (uploaded["added"], uploaded["failures"]) == (1, [])
    answer = stack.http.post("/v1/search", files={"image": ("mine.jpg", content)}, data={"limit": 2}).raise_for_status().json()
    assert [hit["be_score"] for hit in answer["hits"]] == [pytest.approx(1, abs=1e-3)] * 2  # the upload and its original


def test_cross_encoder_dies_then_recovers(stack: Stack) -> None:
    """Triton does not start a model's processes again, and does not say that they are gone. Searches are answered all the same."""
    assert int(stack.python("triton", STUBS)) >= 1
    answer = stack.search("a dog", limit=3)
    assert (answer["reranked"], bool(answer["reason"])) == (False, True)
    assert [hit["be_rank"] for hit in answer["hits"]] == [1, 2, 3]
    assert not stack.problems()  # the gateway stays in service
    stack.compose("restart", "triton")
    stack.wait_until(lambda: stack.http.post("/v1/search", json={"text": "a dog"}).is_success and stack.search("a dog")["reranked"])
    assert stack.search("a dog")["reranked"]


def test_triton_is_killed_then_recovers(stack: Stack) -> None:
    stack.compose("kill", "triton")
    stack.wait_until(lambda: list(stack.problems()) == ["models"])
    assert stack.http.get("/healthz").status_code == 200
    assert [c["count"] for c in stack.http.get("/v1/collections").json()["collections"]] != [0]  # Milvus is still asked
    refused = stack.http.post("/v1/search", json={"text": "a dog"})
    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
    stack.compose("start", "triton")
    stack.wait_until(lambda: not stack.problems())
    assert stack.search("a dog")["reranked"]


def test_milvus_restarts_and_nothing_is_lost(stack: Stack) -> None:
    before = stack.search("a dog", limit=50)
    stack.compose("restart", "milvus")
    stack.wait_until(lambda: not stack.problems())
    stack.wait_until(lambda: stack.http.post("/v1/search", json={"text": "a dog"}).is_success)
    after = stack.search("a dog", limit=50)
    assert [(hit["id"], hit["score"]) for hit in after["hits"]] == [(hit["id"], hit["score"]) for hit in before["hits"]]
    assert ingest(stack)["unchanged"] == len(before["hits"]) - 1  # one was uploaded
