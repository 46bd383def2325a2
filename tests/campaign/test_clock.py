"""The wall clock of one process is moved, and its waits are as long as before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.campaign.clock import JUMPS_S, Clock

CODE = """
import threading, time, grpc
input()
print(time.time(), flush=True)
call = grpc.insecure_channel("127.0.0.1:1").unary_unary("/a/b")
for wait in (lambda: threading.Event().wait(0.2), lambda: time.sleep(0.2), lambda: call(b"", timeout=0.2, wait_for_ready=True)):
    began = time.monotonic()
    try:
        wait()
    except grpc.RpcError as exc:
        assert exc.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began >= 0.19
"""


@pytest.mark.skipif(not Clock.is_possible(), reason="needs a C compiler")
@pytest.mark.parametrize("seconds", JUMPS_S.values(), ids=JUMPS_S)
def test_one_process_sees_the_jump(tmp_path: Path, seconds: int) -> None:
    """A wait that became an hour long would end with the time limit of the test."""
    clock = Clock(tmp_path)
    command, environment = [sys.executable, "-c", CODE], {**os.environ, **clock.environment}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        clock.jump(seconds)
        before = time.time()
        try:
            out, _ = process.communicate("\n", timeout=50)
        finally:
            process.kill()
    assert process.returncode == 0
    assert before + seconds - 1 <= float(out) <= time.time() + seconds + 1
