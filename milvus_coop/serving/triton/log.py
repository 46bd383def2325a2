"""The log that a tritonserver writes into a temporary file. It is emptied when it is large, because `--log-verbose` never ends."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

HARMLESS = "CudaDriverHelper has not been initialized"
"""An error that Triton logs on every machine without a GPU."""
LAST_BYTES = 2**20
"""Size of the end of the log in which `problems` looks for errors."""
LONGEST = 64 * 2**20
"""Size in bytes at which a log that was read to its end is emptied."""
_ERROR = re.compile(r"E\d{4}|\[libprotobuf ERROR")


class ServerLog:
    """The log of one server. Remove it at the end."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="milvus-coop-triton-", suffix=".log")
        os.close(handle)
        self.path = Path(name)
        self._read_to = 0
        self._rest = b""

    def skip(self) -> None:
        """Leave out of `new_errors` what was logged so far."""
        self._read_to, self._rest = self.path.stat().st_size, b""

    def new_errors(self) -> list[str]:
        """The error lines since the last call. The log is emptied if it is large; the server goes on at its begin."""
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            content = self._rest + file.read()
            self._read_to = file.tell()
        whole, _, self._rest = content.rpartition(b"\n")
        if self._read_to > LONGEST:
            os.truncate(self.path, 0)
            self._read_to = 0
        return _errors(whole)

    def problems(self) -> list[str]:
        """The error lines at the end of the log; without any, its last five lines."""
        with self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
            content = file.read()
        return _errors(content) or content.decode(errors="replace").splitlines()[-5:]

    def remove(self) -> None:
        """Delete the file. Safe to call twice."""
        self.path.unlink(missing_ok=True)


def _errors(content: bytes) -> list[str]:
    lines = content.decode(errors="replace").splitlines()
    return [line for line in lines if _ERROR.match(line) and HARMLESS not in line]
