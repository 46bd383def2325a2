"""The function `evaluate`: it takes a data set and bundles and returns a report."""

from __future__ import annotations

import datetime
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from milvus_coop.config import Settings
from milvus_coop.offline.datasets import Dataset
from milvus_coop.offline.evaluation import gallery
from milvus_coop.offline.evaluation.corpus import EvaluationCorpus, build_corpus
from milvus_coop.offline.evaluation.judge import Judge
from milvus_coop.offline.evaluation.options import EvaluationOptions
from milvus_coop.offline.evaluation.progress import OnProgress, silent
from milvus_coop.offline.evaluation.protocols import pools
from milvus_coop.offline.evaluation.records import Direction, EvaluationReport
from milvus_coop.offline.evaluation.systems import BundleChoice, check_systems, close_bundles, open_bundles
from milvus_coop.offline.evaluation.workbench import Workbench
from milvus_coop.store.address import parse_address


def evaluate(
    dataset: Dataset,
    bundles: Sequence[str | Path | BundleChoice] = ("coop-small",),
    options: EvaluationOptions | None = None,
    *,
    distractors: Dataset | None = None,
    uri: str | Path | None = None,
    settings: Settings | None = None,
    on_progress: OnProgress = silent,
) -> EvaluationReport:
    """Evaluate bundles on the real path: ingest into Milvus, search there, rerank what Milvus returned.

    Args:
        dataset: images with captions. Those of `options.split` are the queries and the right answers.
        bundles: names, folders, or `BundleChoice`s.
        options: systems, ks, protocol and so on.
        distractors: more images and texts for the pools.
        uri: a Milvus Lite path or a server, where collections with unique names are made and dropped. The default is a temporary
            Milvus Lite.
        settings: the settings of models and of the connection; by default those of the environment. Their `uri` is not used.
        on_progress: called with the progress.

    Raises:
        InvalidArgumentError: an option is invalid, or no bundle offers a system.
        DatasetError: the split is empty, a language is missing, or the protocol does not fit.
        BundleError, BackendError, StoreError: a model or Milvus cannot be used, or failed.
    """
    options = options or EvaluationOptions()
    options.check()
    start = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milvus-coop-eval-")))
        settings = (settings or Settings.from_env()).override(uri=str(uri or folder / "milvus.db"))
        opened = open_bundles(bundles, settings)
        stack.callback(close_bundles, opened)
        systems = check_systems(options.systems, opened)
        corpus = build_corpus(
            dataset, folder, split=options.split, languages=options.languages, distractors=distractors, on_progress=on_progress
        )
        next(pools(corpus, options.protocol))  # raises before any work if the protocol does not fit
        judges: list[Judge] = []
        for one in opened:
            with Workbench(one, folder, on_progress) as bench:
                judge = Judge(bench, one, systems, options, on_progress)
                corpus, images = judge.fill_images(corpus)
                judge.run(corpus, images)
                judges.append(judge)
        store = parse_address(uri).label if uri else "Milvus Lite, temporary"
        return _report(corpus, options, judges, store, time.monotonic() - start)


def _report(
    corpus: EvaluationCorpus, options: EvaluationOptions, judges: Sequence[Judge], store: str, seconds: float
) -> EvaluationReport:
    found = [judge.findings for judge in judges]
    cases = tuple(case for f in found for case in f.cases)
    queries: dict[str, dict[Direction, int]] = {}
    n_folds = 0
    for pool in pools(corpus, options.protocol):
        counts = queries.setdefault(pool.language, {"image retrieval": 0, "text retrieval": 0})
        counts["image retrieval"] += len(pool.relevant_images)
        counts["text retrieval"] += len(pool.relevant_texts)
        n_folds = max(n_folds, pool.fold + 1)
    return EvaluationReport(
        data=corpus.name,
        split=corpus.split,
        protocol=options.protocol,
        images=len(corpus.images),
        texts={language: len(texts) for language, texts in corpus.texts.items()},
        queries=queries,
        distractors=sum(image.distractor for image in corpus.images),
        folds=n_folds,
        store=store,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=seconds,
        seed=options.seed,
        resamples=options.resamples,
        bundles=tuple(judge.facts() for judge in judges),
        quality=tuple(q for f in found for q in f.quality),
        reach=tuple(r for f in found for r in f.reach),
        cost=tuple(c for f in found for c in f.cost),
        growth=tuple(c for f in found for c in f.growth),
        storage=tuple(s for f in found for s in f.storage),
        ann_recall=tuple(a for f in found for a in f.ann_recall),
        skipped=tuple(s for f in found for s in f.skipped),
        cases=cases,
        changes={judge.facts().name: judge.findings.changes for judge in judges},
        headline_k=options.headline_k,
        problems=corpus.problems,
        thumbnails=gallery.thumbnails(corpus, cases),
    )
