"""A running `milvus-coop serve`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.servers.milvus import free_ports

START_TIMEOUT_S = 60.0
READY = "milvus-coop serves "


class Serving:
    """One process that serves a copy of a Milvus Lite database.

    Args:
        database: where it is copied from.
        folder: for the copy and the log; new.
        root: folder of the pictures that may be shown.
        key: API key to ask for, or ''.
    """

    def __init__(self, database: Path, folder: Path, root: Path, *, key: str = "") -> None:
        folder.mkdir()
        copy = folder / database.name
        shutil.copytree(database, copy)
        port = free_ports(1)[0]
        self.address = f"http://127.0.0.1:{port}/"
        self._log = folder / "log.txt"
        where = ["--uri", str(copy), "--port", str(port), "--root", str(root)]
        self._command = [sys.executable, "-m", "milvus_coop", "serve", *where]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILVUS_")}
        self._environment = {**inherited, **({"MILVUS_COOP_SERVE_API_KEYS": key} if key else {})}
        self.process = self._start()

    def restart(self) -> None:
        """Start again at the same address, after `kill`."""
        self.process = self._start()

    def kill(self) -> None:
        """End at once, without a word."""
        self.process.kill()
        self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        until_s = time.monotonic() + START_TIMEOUT_S
        while READY not in (said := self._log.read_text(encoding="utf-8")):
            if process.poll() is not None or time.monotonic() > until_s:
                process.kill()
                raise RuntimeError(f"it does not serve:\n{said}")
            time.sleep(0.05)
        return process

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(START_TIMEOUT_S)
