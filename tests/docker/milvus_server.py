"""Entrypoint of the Milvus test image: the server of the PyPI wheel, with a root password from the environment as Milvus 3 has it.

`milvus_server.py check` is its healthcheck: somebody who has the password is let in.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

URI = "http://127.0.0.1:19530"
FACTORY_PASSWORD = "Milvus"
COMMAND = ("milvus-server", "--data", "/var/lib/milvus", "--proxy-port", "19530", "--authorization-enabled", "true")
START_TIMEOUT_S = 120.0


def let_in(password: str) -> bool:
    """Whether the server runs and takes this password of root."""
    try:
        client = MilvusClient(URI, token=f"root:{password}", timeout=5)
        client.list_collections(timeout=5)
        client.close()
    except MilvusException:
        return False
    return True


def set_password(password: str) -> None:
    """Wait for the server; on its first start, give root its password."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if let_in(password):
            return
        if let_in(FACTORY_PASSWORD):
            client = MilvusClient(URI, token=f"root:{FACTORY_PASSWORD}", timeout=5)
            client.update_password("root", FACTORY_PASSWORD, password)
            client.close()
        time.sleep(0.2)
    sys.exit("the Milvus server did not start")


def main() -> None:
    """Run the server until it ends or this process is told to stop."""
    password = os.environ["COMMON_SECURITY_DEFAULTROOTPASSWORD"]
    if sys.argv[1:] == ["check"]:
        sys.exit(not let_in(password))
    server = subprocess.Popen(COMMAND, env={**os.environ, "PYTHONWARNINGS": "ignore"}, start_new_session=True)

    def stop(*_: object) -> None:
        # Not gently: that takes this Milvus 20 s, and what it acknowledged survives anyway.
        os.killpg(server.pid, signal.SIGKILL)
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    set_password(password)
    sys.exit(server.wait())


if __name__ == "__main__":
    main()
