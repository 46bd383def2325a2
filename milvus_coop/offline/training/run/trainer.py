"""The training loop: rounds of tasks, evaluations, checkpoints, early stopping."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from milvus_coop.bundle.spec import TextSpec
from milvus_coop.cores import thread_count
from milvus_coop.errors import DatasetError, TrainingError
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.offline.datasets import Dataset, check, open_dataset
from milvus_coop.offline.training.data.features import vision_key
from milvus_coop.offline.training.networks.one_stream import OneStream
from milvus_coop.offline.training.run.config import Precision, TrainConfig
from milvus_coop.offline.training.run.feed import Ahead, Feed, ReadySplit, Splits, draw_seed
from milvus_coop.offline.training.run.folder import RunFolder, State, build_network, load_network
from milvus_coop.offline.training.run.pace import Pace, TrainingProgress
from milvus_coop.offline.training.run.precision import resolve_precision
from milvus_coop.offline.training.run.processes import agree, gather, open_accelerator
from milvus_coop.offline.training.run.scoring import dev_scores
from milvus_coop.offline.training.run.start import start_network
from milvus_coop.offline.training.run.tasks import Objectives, TrainingBatch
from milvus_coop.offline.training.run.tracking import Tracker

__all__ = ["FEATURE_CACHE", "RunReport", "TrainingProgress", "train"]

FEATURE_CACHE = Path("~/.cache/milvus-coop/features")
EXHAUSTIVE_DEV_ITEMS = 100
"""Maximum dev images for a cross-encoder without a bi-encoder, for which every pair is scored."""


@dataclass(frozen=True)
class RunReport:
    """The result of a run."""

    folder: Path
    rounds: int
    stopped_early: bool
    best: float
    """The best dev score: mean recall in percent, of the bi-encoder (`be`) or after reranking (`ce`, `joint`)."""
    dev: dict[str, float]
    """All dev figures of the last evaluation, by name."""
    problems: int
    """Number of items that were left out."""
    seconds: float


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    cache: str | Path = FEATURE_CACHE,
    dataset: Dataset | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> RunReport:
    """Train, or continue a run that was interrupted.

    Args:
        config: the run's configuration. The precision `auto` is decided here and recorded. A resumed run keeps the decision.
        folder: the run's folder. If it has an unfinished run of the same configuration, that run is resumed.
        cache: the folder for features of frozen backbones.
        dataset: the data set, instead of the one that `config.data` names.
        on_progress: called with the progress of the run.

    Raises:
        DatasetError: the data cannot be used. This is found before any model is loaded, except for images that cannot be read.
        TrainingError: the folder holds another run, `init`, `vision` or `miner` cannot be opened, or the loss is not finite.
    """
    run_folder = RunFolder(Path(folder))
    if config.precision == "auto":
        decided = run_folder.config().precision if run_folder.exists() else resolve_precision("auto")
        config = replace(config, precision=cast("Precision", decided))
    if run_folder.exists():
        run_folder.check_same(config)
        if (state := run_folder.state()).finished:
            return _report(run_folder, state, 0.0)
    data = dataset if dataset is not None else open_dataset(config.data)
    check(data, ("train", "dev"))
    return _Trainer(config, run_folder, data, Path(cache).expanduser(), on_progress or (lambda _: None)).run()


class _Trainer:
    """One run. All random draws depend on seed and round alone, so a resumed run repeats the losses."""

    def __init__(
        self, config: TrainConfig, folder: RunFolder, data: Dataset, cache: Path, show: Callable[[TrainingProgress], None]
    ) -> None:
        if config.threads:
            torch.set_num_threads(thread_count(config.threads))
        torch.manual_seed(config.seed)
        self._accelerator = open_accelerator(config.precision)
        self._device, self._is_main = self._accelerator.device, self._accelerator.is_main_process
        self._config, self._folder = config, folder
        self._show = Pace(show if self._is_main else _show_nothing, time.monotonic).report
        self._network = self._open_network(data).to(self._device)
        self._retriever = self._open_miner() if config.miner else self._network
        tokenizer = Tokenizer(folder.tokenizer, TextSpec(self._network.config.max_length, self._network.config.pad_id))
        self._splits = Splits(data, tokenizer, self._network, config, self._device, cache)
        # Fused: one pass over weights and moments instead of one per operation, a fifth of the time if the vocabulary is large.
        self._inner = torch.optim.AdamW(self._groups(), lr=config.learning_rate, fused=True)
        self._objectives, self._optimiser = self._accelerator.prepare(
            Objectives(self._network, self._retriever, config.margin), self._inner
        )
        self._pairs, self._pair_seconds = 0, 0.0

    def run(self) -> RunReport:
        """Train until the last round, or until the dev score stops rising."""
        start = time.monotonic()
        try:
            dev = self._ready_dev()
            ranks = self._config.accumulate * self._accelerator.num_processes
            feed = Feed(self._splits, self._config, self._retriever, self._device, ranks, self._tell_images)
            state, mined = self._folder.load_last(self._network, self._inner)
            if self._is_main:
                for problem in self._folder.problems() if state.round else ():
                    self._splits.report(problem)
                self._folder.cut_metrics(state.round)
                self._folder.save_problems(self._splits.problems)
            state = self._rounds(feed, dev, state, mined)
        finally:
            self._splits.close()
        return _report(self._folder, state, time.monotonic() - start)

    def _open_network(self, data: Dataset) -> OneStream:
        """The network of the last checkpoint, or a new network if the run has not begun."""
        folder = self._folder
        if self._is_main:
            folder.recover()
            network = load_network(folder.path, "last")[0] if (folder.path / "last").is_dir() else self._new_network(data)
        self._accelerator.wait_for_everyone()
        if not self._is_main:
            network = build_network(folder.path)  # `prepare` copies the main process's weights into it
        return network.train()

    def _new_network(self, data: Dataset) -> OneStream:
        """Begin the run. run.json is written last, so that the folder can be used again if something cannot be opened."""
        folder, config = self._folder, self._config
        folder.make()
        captions = (caption.text for item in data.items("train") for caption in item.captions)
        network = start_network(config, folder, captions)
        folder.save_network_config(network.config, None if config.train_vision else network.vision)
        counts = {split: len(data.items(split)) for split in ("train", "dev")}
        folder.begin(config, {**counts, "left_out": len(data.problems)})
        return network

    def _open_miner(self) -> OneStream:
        """The bi-encoder of another run, which must have the same frozen backbone and the same tokenizer."""
        miner, tokenizer = load_network(self._config.miner)
        ours, theirs = self._network.vision, miner.vision
        if ours is None or theirs is None or vision_key(ours) != vision_key(theirs) or self._config.train_vision:
            raise TrainingError(
                f"the bi-encoder of {self._config.miner} sees images through another backbone", expected="the same frozen backbone"
            )
        if tokenizer.read_bytes() != self._folder.tokenizer.read_bytes():
            raise TrainingError(
                f"the bi-encoder of {self._config.miner} has another tokenizer", run=f"--init {self._config.miner} to start from it"
            )
        return miner.to(self._device).requires_grad_(False)

    def _groups(self) -> list[dict[str, object]]:
        """The parameter groups of the optimiser: biases, norms and scalars have no weight decay."""
        learnt = [value for value in self._network.parameters() if value.requires_grad]
        decay, rest = ([v for v in learnt if (v.ndim > 1) is wide] for wide in (True, False))
        return [{"params": decay, "weight_decay": self._config.weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def _ready_dev(self) -> ReadySplit:
        alone = self._config.objective == "ce" and not self._config.miner
        maximum = min(self._config.dev_items, EXHAUSTIVE_DEV_ITEMS) if alone else self._config.dev_items
        return self._splits.ready("dev", maximum=maximum, on_images=self._tell_images)

    def _rounds(self, feed: Feed, dev: ReadySplit, state: State, mined: dict[str, Tensor]) -> State:
        """Run the rounds from `state` to the end, and return the last state."""
        config = self._config
        losses: dict[str, list[float]] = defaultdict(list)
        board = config.tensorboard and self._is_main
        self._show(TrainingProgress("train", state.round, config.rounds))
        with Tracker(self._folder, tensorboard=board) as tracker, Ahead(feed, config) as ahead:
            while state.round < config.rounds and not (config.patience and state.stale >= config.patience):
                feed.enter(state.round, mined if state.round else None)
                mined = {}
                for task, loss in self._round(ahead.batches(state.round), state.round):
                    losses[task].append(loss)
                state = replace(state, round=state.round + 1)
                self._tell_round(state, losses)
                if state.round % config.eval_every == 0 or state.round == config.rounds:
                    state = self._evaluate(dev, state, feed, losses, tracker)
                    losses.clear()
        state = replace(state, finished=True)
        if self._is_main:
            self._folder.save_last(self._network, self._inner, feed.mined, state)
        self._accelerator.wait_for_everyone()
        return state

    def _round(self, batches: Sequence[Sequence[TrainingBatch | None]], number: int) -> Iterator[tuple[str, float]]:
        """Make one optimiser step per task with `batches[turn][step]`, and yield the loss of each task that had a batch.

        Raises:
            TrainingError: a loss is not finite.
        """
        config, processes = self._config, self._accelerator.num_processes
        first = self._accelerator.process_index * config.accumulate
        rate = config.learning_rate * _share(number, config.warm_up, config.rounds)
        start = time.monotonic()
        for turn, task in enumerate(config.order):
            for group in self._inner.param_groups:
                group["lr"] = rate
            self._optimiser.zero_grad()
            total = 0.0
            for step, batch in enumerate(batches[turn], first):
                if batch is None and processes == 1:
                    continue
                seed = draw_seed(config.seed, number, turn, step)
                torch.manual_seed(seed)  # for dropout, so that a resumed run draws the same
                loss = self._objectives(task, batch, seed) / config.accumulate
                self._accelerator.backward(loss)
                total += loss.item()
                self._pairs += (0 if batch is None else len(batch)) * processes
            if not math.isfinite(total):
                raise TrainingError(
                    f"the loss of {task} is {total} in round {number + 1}", expected="a number", run="a lower --learning-rate"
                )
            self._accelerator.clip_grad_norm_(self._network.parameters(), config.clip)
            self._optimiser.step()
            if any(batch is not None for batch in batches[turn]):
                yield task, total
        self._pair_seconds += time.monotonic() - start

    def _evaluate(
        self, dev: ReadySplit, state: State, feed: Feed, losses: Mapping[str, Sequence[float]], tracker: Tracker
    ) -> State:
        """Score the dev split, write a line and checkpoints. Every process gets the outcome, so that all stop together."""
        for problem in gather(self._splits.problems):
            self._splits.report(problem)
        if not any(gather([self._pairs])):
            reason = self._splits.problems[0].reason
            raise DatasetError(f"no batch of train had two images that can be read; first: {reason}", expected="images")
        return agree(self._evaluate_here(dev, state, feed, losses, tracker) if self._is_main else state)

    def _evaluate_here(
        self, dev: ReadySplit, state: State, feed: Feed, losses: Mapping[str, Sequence[float]], tracker: Tracker
    ) -> State:
        config = self._config
        alone = config.objective == "ce" and not config.miner
        k = 0 if config.objective == "be" else len(dev.corpus.texts) if alone else config.k
        figures = dev_scores(
            self._network,
            self._retriever,
            dev.corpus,
            dev.visuals,
            k=k,
            device=self._device,
            queries=config.dev_queries,
            precision=config.precision,
            on_done=self._tell_images,
        )
        score = figures["be_mr" if config.objective == "be" else "coop_mr"]
        better = state.best is None or score > state.best
        state = replace(state, best=score if better else state.best, stale=0 if better else state.stale + 1)
        line = {
            "round": state.round,
            "epoch": round(state.round / feed.rounds_per_pass, 3),
            "losses": {task: float(np.mean(values)) for task, values in losses.items()},
            "learning_rate": config.learning_rate * _share(state.round - 1, config.warm_up, config.rounds),
            "dev": figures,
            "pairs_per_s": round(self._pairs / max(self._pair_seconds, 1e-9), 1),
        }
        tracker.write(line)
        self._show(TrainingProgress("train", state.round, config.rounds, dev=score))
        if better:
            self._folder.save_best(self._network)
        self._folder.save_last(self._network, self._inner, feed.mined, state)
        self._folder.save_problems(self._splits.problems)
        return state

    def _tell_images(self, what: str, done: int, total: int) -> None:
        self._show(TrainingProgress(what, done, total))

    def _tell_round(self, state: State, losses: Mapping[str, Sequence[float]]) -> None:
        recent = [value for values in losses.values() for value in values[-20:]]
        rate = self._pairs / max(self._pair_seconds, 1e-9)
        loss = float(np.mean(recent)) if recent else None
        self._show(TrainingProgress("train", state.round, self._config.rounds, loss=loss, pairs_per_s=rate))


def _show_nothing(_: TrainingProgress) -> None:
    """Report nothing. Only the main process reports progress; the others use this function."""


def _report(folder: RunFolder, state: State, seconds: float) -> RunReport:
    """The report of a run, from the files in its folder."""
    best = state.best if state.best is not None else math.nan
    early = state.round < folder.config().rounds
    return RunReport(folder.path, state.round, early, best, folder.metrics()[-1]["dev"], len(folder.problems()), seconds)


def _share(number: int, warm_up: int, rounds: int) -> float:
    """Learning rate of a round as a share of the maximum: a linear rise, then a cosine to zero."""
    return min((number + 1) / max(1, warm_up), 0.5 * (1 + math.cos(math.pi * min(1.0, number / max(1, rounds)))))
