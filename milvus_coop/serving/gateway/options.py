"""How the service runs: where it listens, who may ask, what it may show, and how much it takes on."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from milvus_coop.config import read_environment
from milvus_coop.errors import InvalidArgumentError

PREFIX = "MILVUS_COOP_SERVE_"
SHORTEST_KEY = 16
"""Characters; a key is meant to be made by a machine."""
ORIGIN = re.compile(r"https?://[^/?#\s]+")
MOST_PORT = 65_535
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
MIB = 2**20


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """Options of `milvus-coop serve`. Each field is also an environment variable: `port` is MILVUS_COOP_SERVE_PORT."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8080
    """0: any free one."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Who has one of these may ask; none: anybody, which is only allowed on loopback or with `anonymous`."""
    anonymous: bool = False
    """Answer anybody, also beyond loopback."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which clients may address the service, against DNS rebinding; `*`: any. None: on loopback its names, else any."""
    cors_origins: tuple[str, ...] = ()
    """Web sites, such as https://example.com, whose pages may call the service; none: only the service's own page."""
    roots: tuple[str, ...] = ()
    """Folders of which pictures may be shown. None: on loopback the folder that the service was started in, else nothing."""
    uploads: str = ""
    """Folder for uploaded pictures; '': uploads are refused."""
    concurrency: int = 0
    """Requests that run at a time; 0: two per core, or 32 where models run on a server."""
    waiting: int = 64
    """Requests that wait beyond that; the next is told to come back (429)."""
    timeout_s: float = 30.0
    """Limit of one request, in seconds."""
    max_k: int = 1000
    """Most candidates, and most hits, of a search."""
    max_documents: int = 10_000
    """Most documents of one rerank request."""
    max_files: int = 64
    """Most pictures of one upload."""
    max_body_mb: int = 64
    """Most MiB of one request's body."""
    shutdown_s: float = 30.0
    """How long requests may go on after the service was told to stop."""
    models_only: bool = False
    """Open no database: only rerank and embeddings, for a Milvus that others talk to. Milvus Lite lets only one process in."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> GatewayOptions:
        """The defaults, changed by what the environment sets.

        Raises:
            InvalidArgumentError: if a variable that holds a number or a yes or no does not.
        """
        return replace(cls(), **read_environment(cls, PREFIX, environ))

    def override(self, **values: Any) -> GatewayOptions:
        """A copy with every value that is neither None nor an empty tuple put in place."""
        return replace(self, **{name: value for name, value in values.items() if value not in (None, ())})

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> tuple[str, ...]:
        """`allowed_hosts`, or what stands for none."""
        return self.allowed_hosts or ((*LOOPBACK_NAMES, self.host) if self.on_loopback else ("*",))

    @property
    def max_body_bytes(self) -> int:
        """Most bytes of one request's body."""
        return self.max_body_mb * MIB

    def folders(self) -> tuple[Path, ...]:
        """The folders of which pictures may be shown, with symbolic links resolved."""
        named = self.roots or ((".",) if self.on_loopback else ())
        uploads = (self.uploads,) if self.uploads else ()
        return tuple(Path(folder).resolve() for folder in (*named, *uploads))

    def slots(self, models: str) -> int:
        """How many requests run at a time, with models of that address."""
        return self.concurrency or (2 * (os.cpu_count() or 1) if models.startswith("onnx") else 32)

    def check(self) -> None:
        """Refuse what makes no sense or is not safe.

        Raises:
            InvalidArgumentError: naming the first such option.
        """
        if not self.host:
            raise InvalidArgumentError("the host is empty", expected="an address to listen on, such as 127.0.0.1 or 0.0.0.0")
        if not 0 <= self.port <= MOST_PORT:
            raise InvalidArgumentError(f"the port is {self.port}", expected=f"0 to {MOST_PORT}")
        if not (self.on_loopback or self.api_keys or self.anonymous):
            raise InvalidArgumentError(
                f"the service would answer anybody who can reach {self.host}",
                expected="API keys, or --anonymous if that is meant",
                # Not before the command, where nobody would learn the key.
                run=f"export {PREFIX}API_KEYS=$(openssl rand -hex 24)",
            )
        if any(len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise InvalidArgumentError(
                "an API key is too short or has odd characters",
                expected=f"at least {SHORTEST_KEY} letters, digits and signs of ASCII",
                run="openssl rand -hex 24",
            )
        for name in ("timeout_s", "shutdown_s", "max_k", "max_documents", "max_files", "max_body_mb"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}", expected="more than 0, and not for ever")
        for name in ("concurrency", "waiting"):
            if getattr(self, name) < 0:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}", expected="0 or more")
        for root in self.roots:
            if not Path(root).is_dir():
                raise InvalidArgumentError(f"the root {root} is no folder", expected="a folder of pictures that exists")
        if self.uploads and not _can_write(Path(self.uploads)):
            raise InvalidArgumentError(f"nothing can be written to {self.uploads}", expected="a folder for uploaded pictures")
        for origin in self.cors_origins:
            if not ORIGIN.fullmatch(origin):
                raise InvalidArgumentError(f"the CORS origin is '{origin}'", expected="such as https://example.com, without a path")


def _can_write(folder: Path) -> bool:
    """Whether this is, or can become, a folder to write to."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
