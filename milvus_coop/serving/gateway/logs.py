"""Logs of the service: one line per request, as JSON or in a readable form. Queries, keys and images are never logged."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from milvus_coop.printable import printable

LOGGER = logging.getLogger("milvus_coop.serving.gateway")


class JsonLines(logging.Formatter):
    """One JSON object per record; the `facts` of a record become fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line of JSON."""
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # in ASCII, because a path may hold control sequences of a terminal


class ReadableLines(logging.Formatter):
    """Lines with time, event and facts, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a readable line."""
        facts = " ".join(f"{name}={printable(str(value))}" for name, value in getattr(record, "facts", {}).items())
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.getMessage()} {facts}"
        if record.exc_info:  # its messages may quote anything
            line = "\n".join((line, *map(printable, self.formatException(record.exc_info).split("\n"))))
        return line


def set_up(*, json_lines: bool) -> None:
    """Send the logs of the service, of its HTTP server and of all libraries to standard error, in the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json_lines else ReadableLines())
    # python_multipart warns of each form that is not valid; the answer and the request's line say so too.
    levels = {"": logging.WARNING, LOGGER.name: logging.INFO, "uvicorn.error": logging.WARNING, "python_multipart": logging.ERROR}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log(event: str, *, level: int = logging.INFO, exc_info: bool = False, **facts: Any) -> None:
    """Write one log line. Facts that are None are left out."""
    known = {name: value for name, value in facts.items() if value is not None}
    LOGGER.log(level, event, extra={"facts": known}, exc_info=exc_info)
