"""A pytest plugin that ends the processes that a test run leaves behind, however the run itself ends.

A run marks its environment, so that all processes below it carry the mark, also those in sessions of their own. A second process
waits until the run is gone, even by SIGKILL, and ends everything that has the mark. SIGTERM stops a run in order, like Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress

import psutil

MARK = "RUN_OF_MILVUS_COOP_TESTS"
"""The variable that a test must pass on if it gives a process an environment of its own."""
GRACE_S = 5.0
"""Time between SIGTERM and SIGKILL."""
ROUNDS = 10

_watcher: subprocess.Popen[bytes] | None = None


def pytest_configure() -> None:
    """Mark the run and start the process that waits for its end; let signals stop the run in order."""
    global _watcher
    # A shell's background command ignores Ctrl-C, and the processes that tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    os.environ[MARK] = uuid.uuid4().hex
    command = [sys.executable, __file__, os.environ[MARK]]
    _watcher = subprocess.Popen(command, stdin=subprocess.PIPE, env=unmarked, start_new_session=True)


def pytest_unconfigure() -> None:
    """Let the watcher look, and wait for it."""
    if _watcher is not None:
        _watcher.communicate()


def marked(mark: str) -> list[psutil.Process]:
    """All processes of a run that are alive."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def end(mark: str) -> None:
    """End all processes of a run: with SIGTERM, so that they can tidy up, and what is left after that with SIGKILL."""
    left = marked(mark)
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(left, GRACE_S)
    for _ in range(ROUNDS):  # a process may start another one while it is being looked for
        left = marked(mark)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        if not left:
            return
        psutil.wait_procs(left, GRACE_S)


if __name__ == "__main__":
    sys.stdin.buffer.read()  # ends when the run ends, because only the run has the other end of the pipe
    end(sys.argv[1])
