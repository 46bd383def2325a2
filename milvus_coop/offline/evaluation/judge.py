"""The evaluation of one bundle, from an empty Milvus to the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from milvus_coop.bundle.text_states import reads_text_encoder, text_states
from milvus_coop.errors import DatasetError
from milvus_coop.offline.datasets import DataProblem
from milvus_coop.offline.evaluation import cost, gallery
from milvus_coop.offline.evaluation.corpus import EvaluationCorpus
from milvus_coop.offline.evaluation.exhaustive import PairScorer, Ranks, rank_all
from milvus_coop.offline.evaluation.options import EvaluationOptions
from milvus_coop.offline.evaluation.progress import OnProgress
from milvus_coop.offline.evaluation.protocols import QueryPool, pools
from milvus_coop.offline.evaluation.quality import Tally, qualities, reaches
from milvus_coop.offline.evaluation.rankings import search_pool
from milvus_coop.offline.evaluation.records import (
    AnnRecall,
    BundleFacts,
    Case,
    Cost,
    Direction,
    Quality,
    Reach,
    Skipped,
    Storage,
    SystemVariant,
    TextSide,
)
from milvus_coop.offline.evaluation.systems import OpenedBundle, System
from milvus_coop.offline.evaluation.workbench import Shelf, Workbench
from milvus_coop.types import Kind


@dataclass
class Findings:
    """The results of one bundle so far."""

    quality: list[Quality] = field(default_factory=list)
    reach: list[Reach] = field(default_factory=list)
    cost: list[Cost] = field(default_factory=list)
    growth: list[Cost] = field(default_factory=list)
    storage: list[Storage] = field(default_factory=list)
    ann_recall: list[AnnRecall] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    changes: dict[Direction, tuple[int, int]] = field(default_factory=dict)
    pairs_per_s: float = 0.0


class Judge:
    """Evaluates one bundle. The workbench drops the collections that the judge makes."""

    def __init__(
        self, bench: Workbench, opened: OpenedBundle, systems: Sequence[System], options: EvaluationOptions, on_progress: OnProgress
    ) -> None:
        self._bench = bench
        self._opened = opened
        self._quick = opened.with_memo()
        self._systems = opened.offers(systems)
        self._options = options
        self._on_progress = on_progress
        self.findings = Findings()

    @property
    def variants(self) -> list[SystemVariant]:
        """The systems of this bundle, each a row of the tables."""
        rows: list[SystemVariant] = []
        for system in self._systems:
            ks = self._options.sorted_ks if system == self._opened.coop else (None,)
            rows += [SystemVariant(self._opened.name, system, k) for k in ks]
        return rows

    @property
    def _headline(self) -> SystemVariant | None:
        return next((c for c in self.variants if c.k == self._options.headline_k), None)

    def fill_images(self, corpus: EvaluationCorpus) -> tuple[EvaluationCorpus, Shelf]:
        """Ingest the images. An image that cannot be read is removed from the corpus."""
        shelf, failures = self._bench.fill(corpus, None, self._quick)
        if not failures:
            return corpus, shelf
        left = corpus.without([number for number, _ in failures], [problem for _, problem in failures])
        shelf, failures = self._bench.fill(left, None, self._quick)  # again, as the numbers have moved
        if failures:
            raise DatasetError(f"{failures[0][1].place} could be read once and not again", expected="files that stay as they are")
        return left, shelf

    def run(self, corpus: EvaluationCorpus, images: Shelf) -> Findings:
        """Do the whole evaluation except for the ingest of images."""
        self.findings.storage.append(cost.storage(self._opened, images))
        for position, (language, some) in enumerate(groupby(pools(corpus, self._options.protocol), key=lambda pool: pool.language)):
            texts, failures = self._bench.fill(corpus, language, self._quick)
            _refuse(failures)
            self._judge(corpus, language, list(some), images, texts)
            if position == 0:
                self._measure(corpus, language, images, texts)
        self._quick.models.backend.close()  # frees up to half a gigabyte
        return self.findings

    def _judge(self, corpus: EvaluationCorpus, language: str, some: Sequence[QueryPool], images: Shelf, texts: Shelf) -> None:
        options, found = self._options, self.findings
        everything = self._exhaustive(corpus, language, some, images)
        variants = [c for c in self.variants if c.system != "ce" or everything is not None]
        tally = Tally(variants)
        cases: list[Case] = []
        for position, pool in enumerate(some):
            shelves: dict[Kind, Shelf] = {
                "image": self._bench.part(images, pool.images),
                "text": self._bench.part(texts, pool.texts),
            }
            rerank = any(c.k for c in variants)
            rankings = search_pool(
                self._bench, self._quick, corpus, pool, shelves, options.sorted_ks, rerank=rerank, on_progress=self._on_progress
            )
            tally.add(pool, rankings, everything[position] if everything else None, options.sorted_ks)
            if self._headline is not None:
                more, counts = gallery.changed(corpus, pool, rankings, self._headline)
                cases += more
                for direction, (repaired, broken) in counts.items():
                    before = found.changes.get(direction, (0, 0))
                    found.changes[direction] = (before[0] + repaired, before[1] + broken)
            for shelf, whole in zip(shelves.values(), (images, texts), strict=True):
                if shelf is not whole:
                    self._bench.drop(shelf)
        found.quality += qualities(tally, language, corpus.texts[language], resamples=options.resamples, seed=options.seed)
        found.reach += reaches(tally, self._opened.name, language, options.sorted_ks)
        found.cases += gallery.choose(cases, options.gallery)

    def _exhaustive(self, corpus: EvaluationCorpus, language: str, some: Sequence[QueryPool], images: Shelf) -> list[Ranks] | None:
        """The exhaustive cross-encoder on every pool. None if it was not asked for, or is skipped because of too many pairs."""
        scorer = PairScorer(self._quick, corpus.texts[language], images)
        rate = self.findings.pairs_per_s = scorer.probe(some[0].texts, some[0].images)
        if "ce" not in self._systems:
            return None
        pairs = sum(pool.distinct_pairs for pool in some)
        if pairs > self._options.max_pairs:
            self.findings.skipped.append(Skipped(self._opened.name, language, pairs, self._options.max_pairs, rate))
            return None
        return [rank_all(scorer, pool, self._opened.name, self._on_progress) for pool in some]

    def _measure(self, corpus: EvaluationCorpus, language: str, images: Shelf, texts: Shelf) -> None:
        """Measure bytes, times and ANN recall in the whole pool. Other protocols and languages cost the same."""
        options, found = self._options, self.findings
        found.storage.append(cost.storage(self._opened, texts))
        if not options.cost_queries:
            return
        whole = next(pools(corpus))
        queries: dict[Kind, list[int]] = {"image": list(whole.relevant_images), "text": list(whole.relevant_texts)}
        for kind, numbers in queries.items():
            shelf, asking = (images, texts) if kind == "image" else (texts, images)
            of = cost.sample(corpus, language, kind, numbers, options)
            found.cost += self._costs(shelf, of)
            embeddings = asking.embeddings(numbers[: options.cost_queries])
            found.ann_recall.append(cost.ann_recall(self._bench, self._opened.name, shelf, embeddings, options.sorted_ks))
            if kind == "image" and options.grow:
                rows = [c for c in self.variants if c.k in (None, options.headline_k)]
                found.growth += cost.grow(self._bench, self._opened, shelf, of, rows, options.seed, self._on_progress)

    def _costs(self, shelf: Shelf, of: cost.Sample) -> list[Cost]:
        with self._bench.search(shelf) as search:
            meters = [
                cost.exhaustive_meter(self._opened, shelf, of)
                if c.system == "ce"
                else cost.coop_meter(search, of, c, len(shelf.rows))
                for c in self.variants
            ]
            return cost.measure(meters, of, f"measure {shelf.kind} retrieval, {self._opened.name}", self._on_progress)

    def facts(self) -> BundleFacts:
        """The facts that identify the bundle."""
        spec = self._opened.spec
        text_side: TextSide = "stored" if text_states(spec) else "encoded" if reads_text_encoder(spec) else "tokenised"
        return BundleFacts(self._opened.name, spec.label, spec.kind, spec.fingerprint, self.findings.pairs_per_s, text_side)


def _refuse(failures: Sequence[tuple[int, DataProblem]]) -> None:
    if failures:
        problem = failures[0][1]
        raise DatasetError(f"{len(failures)} captions cannot be ingested, the first is '{problem.place}': {problem.reason}")
