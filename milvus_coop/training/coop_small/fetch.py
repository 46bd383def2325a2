"""Download and unpack the packages of the recipe with the tools they belong to (apt-get, npm, pip)."""

from __future__ import annotations

import logging
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from milvus_coop.training.coop_small.packages import PACKAGES, Package
from milvus_coop.training.coop_small.workspace import Workspace

logger = logging.getLogger(__name__)
_TIMEOUT_S = 600


def fetch_packages(workspace: Workspace, packages: Iterable[Package] = PACKAGES) -> None:
    """Download (about 500 MB, under a minute) and unpack every package that is not there yet."""
    for package in packages:
        target = workspace.raw / package.folder
        if target.is_dir():
            continue
        logger.info("fetching %s %s", package.name, package.version)
        archive = _download(package, workspace.downloads)
        partial = target.with_suffix(".partial")
        partial.mkdir(exist_ok=True)
        _unpack(archive, partial)
        partial.rename(target)


def _download(package: Package, folder: Path) -> Path:
    """Get the package's archive; the newest file that appears or already lies in `folder`."""
    commands = {
        "apt": ["apt-get", "download", package.name],
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "pip": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{package.name}=={package.version}"],
    }
    patterns = {
        "apt": f"{package.name}_*.deb",
        "npm": f"{package.folder}-{package.version}.tgz",
        "pip": f"{package.name.replace('-', '_')}-{package.version}-*.whl",
    }
    if not any(folder.glob(patterns[package.tool])):
        subprocess.run(commands[package.tool], cwd=folder, check=True, timeout=_TIMEOUT_S)
    return max(folder.glob(patterns[package.tool]), key=lambda path: path.stat().st_mtime)


def _unpack(archive: Path, target: Path) -> None:
    if archive.suffix == ".deb":
        command = ["dpkg", "-x", str(archive), str(target)]
        subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)  # noqa: S202 - zipfile keeps members below the target
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
