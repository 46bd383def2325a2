"""Which compose files are tested, with what, and whether this machine can: found out within seconds, by asking only."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FILES = os.environ.get("MILVUS_COOP_TEST_COMPOSE", str(ROOT / "deploy" / "compose.yaml")).split(":")
"""Compose files, each over the one before; separated by colons in the variable."""
COMMAND = os.environ.get("MILVUS_COOP_TEST_COMPOSE_COMMAND", "docker compose")
SECRETS = {
    "MILVUS_ROOT_PASSWORD": "a-password-for-tests-0123",
    "MILVUS_COOP_SERVE_API_KEYS": "a-key-for-tests-0123456789",
}
"""What the files demand."""
TIMEOUT_S = 10


def why_not() -> str | None:
    """Why the files cannot be brought up here, in a line; None: they can, without building or pulling anything."""
    try:
        if _run("docker", "info").returncode != 0:
            return "no docker engine answers"
        listed = _run(*shlex.split(COMMAND), *(f"--file={file}" for file in FILES), "--profile=*", "config", "--images")
        if listed.returncode != 0:
            return f"`{COMMAND}` cannot read the files: {listed.stderr.strip()}"
        wanted = set(listed.stdout.split())
        found = _run("docker", "image", "inspect", *wanted)
    except FileNotFoundError as exc:
        return f"there is no {exc.filename}"
    except subprocess.TimeoutExpired:
        return "the docker engine does not answer"
    missing = wanted - {tag for image in json.loads(found.stdout) for tag in image["RepoTags"]}
    return f"the docker engine lacks {', '.join(sorted(missing))}" if missing else None


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, **SECRETS}, capture_output=True, text=True, timeout=TIMEOUT_S)
