"""Stops a Triton server when the process that started it is gone, even by SIGKILL."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

_SCRIPT = """
read -r _ && exit
kill -TERM "$1" 2>/dev/null
while grep -qs '^State:[[:space:]]*[^XZ[:space:]]' "/proc/$1/status" && [ $((waited += 1)) -le "$2" ]; do sleep 1; done
kill -KILL "-$1" 2>/dev/null
rm -f "$3" "$4"*
"""
"""Waits for a line, or for the end of the pipe: it ends when no process is left that could write. Then it stops the server as
`TritonServer.stop` does. A process of the Python backend may wait forever for a lock of a server that has ended, so all processes
of the group are killed at the end."""


class Guard:
    """A small process that waits for the end of this process, and then stops a server and removes its files.

    Args:
        group: the process id of the server, which leads a process group of its own.
        grace_s: time in whole seconds that the server gets to stop.
        log: a file to remove.
        shared_memory: the start of the paths of the server's shared memory, which is removed.
    """

    def __init__(self, group: int, grace_s: int, log: Path, shared_memory: Path) -> None:
        command = ["sh", "-c", _SCRIPT, "sh", str(group), str(grace_s), str(log), str(shared_memory)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)

    def dismiss(self) -> None:
        """End the guard; the server has been stopped."""
        with contextlib.suppress(OSError):  # the guard is gone
            self._process.communicate(b"\n")
