"""Finds or installs tritonserver: on the PATH (NVIDIA's container), or from the wheel of nvidia-pytriton in its own environment.

The wheel contains a real tritonserver with its Python backend. It needs numpy < 2, which the newest dependencies of Milvus Lite do
not allow. So it is installed once into its own virtual environment in the user's cache folder.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from milvus_coop.errors import TritonError

REQUIREMENTS = ("nvidia-pytriton==0.7.0", "onnxruntime==1.23.2", "numpy==1.26.4")
"""The packages of the environment. The graphs use ONNX opset 20 or less, which this ONNX Runtime supports."""
LOCK = Path(__file__).with_name("requirements.txt")
"""These packages and all that they need, with hashes; made from `REQUIREMENTS` by `make locks`."""
MARK = "complete.txt"


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """A tritonserver that can be started."""

    binary: Path
    backends: Path | None
    """Folder of its backends; None means its built-in default."""
    environment: Mapping[str, str]
    """Environment variables to add when it is started."""


def cache_folder() -> Path:
    """The cache folder: MILVUS_COOP_CACHE, or `milvus-coop` in the user's cache folder."""
    if given := os.environ.get("MILVUS_COOP_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "milvus-coop"


def find_triton(*, on_progress: Callable[[str], None] = lambda _: None) -> TritonInstall:
    """The tritonserver on the PATH, or else the one of the wheel, whose environment is created once (about 500 MB, a minute).

    Args:
        on_progress: a function that is called with a message before a slow step.

    Raises:
        TritonError: there is no tritonserver, and it cannot be installed.
    """
    if found := shutil.which("tritonserver"):
        return TritonInstall(Path(found), None, {})
    folder = cache_folder() / f"triton-{REQUIREMENTS[0].partition('==')[2]}-py{sys.version_info.major}{sys.version_info.minor}"
    if not (folder / MARK).is_file():
        _check_machine()
        with _alone(folder):
            if not (folder / MARK).is_file():  # another process may have installed it meanwhile
                _install(folder, on_progress)
    return _from_wheel(folder)


def _check_machine() -> None:
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise TritonError(
            f"there is no tritonserver on the PATH and no wheel of it for {system} {machine}",
            expected="Linux on x86_64",
            run="NVIDIA's container image, or --models onnx",
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder's installation, so that of two first starts the second waits for the first."""
    import fcntl  # not on Windows, where there is no wheel either

    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(folder: Path, on_progress: Callable[[str], None]) -> None:
    on_progress(f"installing Triton into {folder} (once, about 500 MB)")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", *options, "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), done.stderr[-500:])
        raise TritonError(f"the Triton wheel could not be installed: {reason.strip()}", run=" ".join(command))
    _stage_backend(folder)
    (folder / MARK).write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")


def _stage_backend(folder: Path) -> None:
    """Copy the Python backend and the stub for this Python version into one folder, as Triton requires."""
    triton = _site_packages(folder) / "pytriton" / "tritonserver"
    stub = triton / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / "triton_python_backend_stub"
    if not stub.is_file():
        raise TritonError(f"the Triton wheel has no Python backend for Python {platform.python_version()}", expected="3.8 to 3.13")
    backend = folder / "backends" / "python"
    shutil.copytree(triton / "backends" / "python", backend)
    shutil.copy(stub, backend)


def _from_wheel(folder: Path) -> TritonInstall:
    packages = _site_packages(folder)
    binary = packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    libraries = [packages / "nvidia_pytriton.libs", folder / "backends" / "python"]
    environment = {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "VIRTUAL_ENV": str(folder),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": "",
    }
    return TritonInstall(binary, folder / "backends", environment)


def _site_packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
