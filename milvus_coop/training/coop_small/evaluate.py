"""The held-out stamps through the path of a user: ingest into Milvus Lite, search with `CoopSearch`, both directions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milvus_coop.backends import Backend
from milvus_coop.ingest import CoopIngest
from milvus_coop.search import CoopSearch
from milvus_coop.training.coop_small.figures import describe
from milvus_coop.training.coop_small.judge import COOP_K, Verdict
from milvus_coop.training.coop_small.pictures import on_background, open_picture
from milvus_coop.training.coop_small.records import Record, normalise, read_records
from milvus_coop.training.coop_small.split import read_test_ids
from milvus_coop.training.coop_small.workspace import Workspace
from milvus_coop.training.metrics import KS, Recalls, binary_cross_entropy, reliability_table
from milvus_coop.types import Array, SearchResult

_NOWHERE = 1_000_000  # rank of what the index did not return
_EDGES = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])


@dataclass(frozen=True)
class Report:
    """What the card says of the held-out stamps."""

    pictures: int
    captions: int
    verdict: Verdict
    cross_entropy: float
    """Of the probabilities of all rescored pairs, in nats."""
    base_cross_entropy: float
    """Of always answering those pairs' share of matches."""
    reliability: list[tuple[float, float, int, float, float]]

    def figures(self) -> dict[str, Any]:
        """For the card."""
        return {
            "pictures": self.pictures,
            "captions": self.captions,
            **describe(self.verdict),
            "cross_entropy": round(self.cross_entropy, 4),
            "base_cross_entropy": round(self.base_cross_entropy, 4),
            "reliability": [[round(value, 3) for value in row] for row in self.reliability],
        }

    def lines(self) -> list[str]:
        """For people."""
        figures = self.figures()
        head = f"{self.pictures} pictures, {self.captions} captions; R@1/R@5/R@10 and the standard error of R@1"
        rows = [f"{name:10} {figures[name]}" for name in ("be_text", "be_image", "coop_text", "coop_image")]
        gain = f"Coop - BE, R@1, both directions: {figures['gain']:+.2f} +- {figures['gain_se']:.2f}"
        entropy = f"cross-entropy of rescored pairs {self.cross_entropy:.4f}, of their base rate {self.base_cross_entropy:.4f}"
        return [head, *rows, gain, entropy]


def evaluate_bundle(workspace: Workspace, bundle: str | Path, models: str | Backend | None = None) -> Report:
    """Ingest and search the held-out stamps, in about a minute; `models` as in `CoopSearch`."""
    test_ids = read_test_ids()
    records = [record for record in read_records(workspace.root / "records.jsonl") if record.id in test_ids]
    folder = workspace.folder("test")
    _write_lists(records, workspace.raw, folder)
    database = folder / "milvus.db"
    _remove(database)
    for kind, file in (("image", "pictures.jsonl"), ("text", "captions.jsonl")):
        with CoopIngest(f"{kind}s", kind=kind, uri=database, bundle=bundle, models=models) as ingest:  # type: ignore[arg-type]
            report = ingest.run([folder / file])
            if report.failures:
                raise RuntimeError(f"{len(report.failures)} of the held-out stamps could not be ingested: {report.failures[0]}")
    captions = {normalise(record.caption): record.caption for record in records}
    with CoopSearch("images", uri=database, bundle=bundle, models=models) as search:
        found = search.query_many(list(captions.values()), limit=max(COOP_K, len(records)), k=COOP_K, output_fields=["label"])
    text_side = _Side.of(found, list(captions))
    with CoopSearch("texts", uri=database, bundle=bundle, models=models) as search:
        paths = [folder / f"{index}.png" for index in range(len(records))]
        found = search.query_many(images=paths, limit=max(COOP_K, len(captions)), k=COOP_K, output_fields=["label"])
    image_side = _Side.of(found, [normalise(record.caption) for record in records])
    probability = np.concatenate([text_side.probability, image_side.probability])
    match = np.concatenate([text_side.match, image_side.match])
    return Report(
        len(records),
        len(captions),
        Verdict(text_side.be, image_side.be, text_side.coop, image_side.coop),
        binary_cross_entropy(probability, match),
        binary_cross_entropy(np.full(len(match), match.mean()), match),
        reliability_table(probability, match, _EDGES),
    )


@dataclass(frozen=True)
class _Side:
    """One direction: hits by bi-encoder order and by final order, and the rescored pairs."""

    be: Recalls
    coop: Recalls
    probability: Array
    match: Array

    @classmethod
    def of(cls, results: Sequence[SearchResult], labels: Sequence[str]) -> _Side:
        """From the results of queries with these right labels."""
        ranks: list[tuple[int, ...]] = []
        pairs: list[tuple[float, bool]] = []
        for result, label in zip(results, labels, strict=True):
            right = [hit for hit in result.hits if hit.fields["label"] == label]
            ranks.append(tuple(min((getattr(hit, name) for hit in right), default=_NOWHERE) for name in ("be_rank", "rank")))
            pairs.extend((hit.ce_score, hit.fields["label"] == label) for hit in result.hits if hit.ce_score is not None)
        be, coop = (np.array(column)[:, None] <= np.array(KS) for column in zip(*ranks, strict=True))
        probability, match = (np.array(column) for column in zip(*pairs, strict=True))
        return cls(Recalls(be), Recalls(coop), probability.astype(np.float64), match.astype(bool))


def _write_lists(records: Sequence[Record], raw: Path, folder: Path) -> None:
    """Pictures as PNG files, a list of them with their labels, and a list of the distinct captions."""
    pictures: list[dict[str, str]] = []
    captions: dict[str, dict[str, str]] = {}
    for index, record in enumerate(records):
        path = folder / f"{index}.png"
        if not path.is_file():
            on_background(open_picture(record, raw)).save(path)
        pictures.append({"path": path.name, "label": normalise(record.caption)})
        captions.setdefault(normalise(record.caption), {"text": record.caption, "label": normalise(record.caption)})
    for name, rows in (("pictures", pictures), ("captions", list(captions.values()))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
