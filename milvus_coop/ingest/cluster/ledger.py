"""`Ledger`: the parts of a job that are finished, in a folder or an object store, so that the next run does not look at them again.

Below the given place, each collection has a folder:

    finished/<time>-<random>.jsonl   finished parts, one JSON object per line; a new file every few seconds, never changed
    failed/<name of a part>.jsonl    its dead letters: the items that failed, one JSON object per line with `uri` and `reason`
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from milvus_coop.elsewhere.files import Files
from milvus_coop.elsewhere.location import parse_location
from milvus_coop.errors import StoreError
from milvus_coop.ingest.cluster.parts import Finished, Part
from milvus_coop.ingest.images import HALF
from milvus_coop.records import parse_json, read_record
from milvus_coop.store import Collection
from milvus_coop.types import Failure

SAVE_EVERY_S = 10.0
"""Time between two files of finished parts. A run that is killed loses at most the parts since the last one."""
SAMPLES = 256
"""Number of parts of which one item is looked up in the collection, to see whether it is the one that the ledger speaks of."""
_SAVED = re.compile(r"finished/[0-9]+-[0-9a-f]+\.jsonl")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file of finished parts."""

    part: str
    items: int
    failed: int = 0
    sample: str = ""
    """The id of an item that is in the collection; '' if the part has none."""


class Ledger:
    """The finished parts of one job, written by one run at a time.

    Args:
        state: a folder, or s3://, gs://, az://, ...
        collection: the collection that the job fills.
        job: what else the result of the job depends on, such as the bundle's fingerprint.

    Raises:
        InvalidArgumentError: the place cannot be used.
        StoreError: the place cannot be reached. Methods raise it too.
    """

    def __init__(self, state: str, collection: Collection, job: Mapping[str, str | None]) -> None:
        digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:8]
        self._files = Files(parse_location(state, "state") / f"{collection.name}-{digest}", "state", StoreError)
        self._collection = collection
        self._lines: dict[str, Line] = {}
        self._new: list[Line] = []
        self._saved_s = time.monotonic()
        self._dead: set[str] = set()
        """Names of the files of dead letters."""

    def __str__(self) -> str:
        return str(self._files.location)

    def load(self, *, retry_failed: bool = False) -> dict[str, Finished]:
        """The finished parts by key. If `retry_failed`, those without a failure.

        If the collection lacks items that are finished, for example because it was made anew, nothing is finished, and the files
        are removed.
        """
        names = []
        for name, _, _ in self._files.listing():
            if _SAVED.fullmatch(name):
                names.append(name)
            elif name.startswith("failed/"):
                self._dead.add(name)
        for name in sorted(names):
            source = f"{self}/{name}"
            for line in (self._files.read(name) or b"").splitlines():
                read = read_record(Line, parse_json(line, source, StoreError), StoreError, source)
                self._lines[read.part] = read
        if not self._agrees():
            _log.warning("%s has lost items that %s calls finished; all parts are looked at again", self._collection.name, self)
            self._files.remove_many(names)
            self._lines.clear()
        found = self._lines.items()
        return {key: Finished(line.items, line.failed) for key, line in found if not (retry_failed and line.failed)}

    def add(self, part: Part, items: int, failures: Sequence[Failure], sample: str) -> None:
        """Remember that a part is finished. A part with failures that may pass is not: the next run looks at it again."""
        name = f"failed/{hashlib.sha256(part.name.encode(errors='surrogatepass')).hexdigest()[:HALF]}.jsonl"
        if failures:
            lines = [json.dumps({"uri": f.uri, "reason": f.reason, "part": part.name}) for f in failures]
            self._files.write(name, "".join(f"{line}\n" for line in lines).encode())
            self._dead.add(name)
        elif name in self._dead:
            self._files.remove_many([name])
            self._dead.discard(name)
        if part.key and not any(failure.may_pass for failure in failures):
            self._new.append(Line(part.key, items, len(failures), sample))
        if time.monotonic() - self._saved_s >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write the finished parts since the last call."""
        if self._new:
            content = "".join(json.dumps(asdict(line)) + "\n" for line in self._new)
            self._files.write(f"finished/{time.time_ns():020}-{secrets.token_hex(4)}.jsonl", content.encode())
            self._new = []
        self._saved_s = time.monotonic()

    def _agrees(self) -> bool:
        ids = [line.sample for line in self._lines.values() if line.sample]
        some = random.sample(ids, min(SAMPLES, len(ids)))
        return len(self._collection.stamps(some)) == len(set(some))
