"""A test run that is ended leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.waiting import is_gone, wait_until

ROOT = Path(__file__).parent.parent
RUN = """\
import subprocess, sys, time

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
PARENT = f"import subprocess, time; print(subprocess.Popen({SLEEP!r}, start_new_session=True).pid, flush=True); time.sleep(600)"

def test_that_leaves_processes():
    plain = subprocess.Popen(SLEEP)
    stubborn = subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True)
    parent = subprocess.Popen([sys.executable, "-c", PARENT], start_new_session=True, stdout=subprocess.PIPE, text=True)
    print("READY", plain.pid, stubborn.pid, parent.pid, parent.stdout.readline(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "test_run.py").write_text(RUN, encoding="utf-8")
    folder = str(tmp_path)
    command = [sys.executable, "-m", "pytest", "-s", "-p", "tests.leftovers", "--rootdir", folder, folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        line = next(line for line in run.stdout if "READY" in line)
        started = [psutil.Process(int(pid)) for pid in line.partition("READY")[2].split()]
        assert len(started) == 4
        run.send_signal(how)
        assert run.wait(60) == {signal.SIGTERM: pytest.ExitCode.INTERRUPTED, signal.SIGKILL: -signal.SIGKILL}[how]
    wait_until(lambda: all(map(is_gone, started)))
