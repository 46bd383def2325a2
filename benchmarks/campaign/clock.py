"""A wall clock that one process sees and the campaign moves. The clock of the machine, which other programs use, stays as it is.

`clock.c` is compiled and loaded into the process before the C library (LD_PRELOAD). So Python, gRPC and every other library in the
process see the same jump. The monotonic clock does not jump, as it does not when an administrator sets a machine's clock.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
JUMPS_S = {"an hour forward": 3600, "an hour back": -3600, "a day forward": 86_400, "a day back": -86_400}


class Clock:
    """The wall clock of the processes that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        self._added = folder / "clock"
        self._library = folder / "clock.so"
        self.jump(0)
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", self._library, SOURCE, "-ldl"]
        subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)

    @staticmethod
    def is_possible() -> bool:
        """True if this machine has a C compiler."""
        return shutil.which("cc") is not None

    @property
    def environment(self) -> Mapping[str, str]:
        return {"LD_PRELOAD": str(self._library), "CAMPAIGN_CLOCK": str(self._added)}

    def jump(self, seconds: int) -> None:
        """Let the processes see a time that is so many seconds after the machine's."""
        with self._added.open("r+b" if self._added.exists() else "wb") as file:  # the processes have mapped this very file
            file.write(struct.pack("q", seconds))
