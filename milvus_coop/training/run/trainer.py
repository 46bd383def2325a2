"""The loop: rounds of tasks, evaluations, checkpoints, early stopping."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from milvus_coop.bundle.spec import TextSpec
from milvus_coop.datasets import Dataset, check, open_dataset
from milvus_coop.errors import TrainingError
from milvus_coop.preprocess.texts import Tokenizer
from milvus_coop.training.data.features import vision_key
from milvus_coop.training.networks.one_stream import OneStream
from milvus_coop.training.run.config import TrainConfig
from milvus_coop.training.run.feed import Ahead, Feed, Ready, Splits, draw_seed
from milvus_coop.training.run.folder import RunFolder, State, load_network
from milvus_coop.training.run.scoring import dev_scores
from milvus_coop.training.run.start import start_network
from milvus_coop.training.run.tasks import Batch, Objectives
from milvus_coop.training.run.tracking import Tracker

FEATURE_CACHE = Path("~/.cache/milvus-coop/features")
EXHAUSTIVE_DEV_ITEMS = 100
"""Dev images for a cross-encoder without a bi-encoder: every pair is scored."""


@dataclass(frozen=True)
class RunReport:
    """How a run ended."""

    folder: Path
    rounds: int
    stopped_early: bool
    best: float
    """Best dev score: mean recall in percent, of the bi-encoder (`be`) or after rescoring (`ce`, `joint`)."""
    dev: dict[str, float]
    """All dev figures of the last evaluation."""
    problems: int
    """Items that were left out."""
    seconds: float


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    stage: str
    done: int
    total: int
    loss: float | None = None
    pairs_per_s: float | None = None
    dev: float | None = None


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    cache: str | Path = FEATURE_CACHE,
    dataset: Dataset | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Train, or go on with a run that was interrupted.

    Args:
        config: the run.
        folder: where it leaves its files; a folder with an unfinished run of the same configuration is resumed.
        cache: where features of frozen backbones are kept.
        dataset: instead of what `config.data` names.
        on_progress: told how far the run is.

    Raises:
        DatasetError: the data cannot be used; found before any model is loaded.
        TrainingError: the folder holds another run, or `init`, `vision` or `miner` cannot be opened.
    """
    data = dataset if dataset is not None else open_dataset(config.data)
    check(data, ("train", "dev"))
    run_folder = RunFolder(Path(folder))
    if run_folder.exists():
        run_folder.check_same(config)
    return _Trainer(config, run_folder, data, Path(cache).expanduser(), on_progress or (lambda _: None)).run()


class _Trainer:
    """One run. Everything that is drawn depends on seed and round alone, so a resumed run repeats the losses."""

    def __init__(
        self, config: TrainConfig, folder: RunFolder, data: Dataset, cache: Path, show: Callable[[Progress], None]
    ) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self._config, self._folder, self._show = config, folder, show
        self._accelerator = Accelerator(mixed_precision=config.precision)
        self._device = self._accelerator.device
        self._network = self._open_network(data).to(self._device)
        self._retriever = self._open_miner() if config.miner else self._network
        tokenizer = Tokenizer(folder.tokenizer, TextSpec(self._network.config.max_length, self._network.config.pad_id))
        self._splits = Splits(data, tokenizer, self._network, config, self._device, cache)
        self._inner = torch.optim.AdamW(self._groups(), lr=config.learning_rate)
        self._objectives, self._optimiser = self._accelerator.prepare(
            Objectives(self._network, self._retriever, config.margin), self._inner
        )
        self._pairs, self._pair_seconds = 0, 0.0

    def run(self) -> RunReport:
        """Until the last round, or until the dev score stops rising."""
        start = time.monotonic()
        try:
            dev = self._ready_dev()
            ranks = self._config.accumulate * self._accelerator.num_processes
            feed = Feed(self._splits, self._config, self._retriever, self._device, ranks, self._tell_images)
            state, mined = self._folder.load_last(self._network, self._inner)
            self._folder.cut_metrics(state.round)
            self._folder.save_problems(self._splits.problems)
            if not state.finished:
                state = self._rounds(feed, dev, state, mined)
        finally:
            self._splits.close()
        figures = self._folder.metrics()[-1]["dev"]
        early = state.round < self._config.rounds
        best = state.best if state.best is not None else math.nan
        seconds = time.monotonic() - start
        return RunReport(self._folder.path, state.round, early, best, figures, len(self._splits.problems), seconds)

    def _open_network(self, data: Dataset) -> OneStream:
        """The last checkpoint of a run that was begun, or a new network."""
        folder, config = self._folder, self._config
        folder.recover()
        if (folder.path / "last").is_dir():
            return load_network(folder.path, "last")[0].train()
        counts = {split: len(data.items(split)) for split in ("train", "dev")}
        folder.begin(config, {**counts, "left_out": len(data.problems)})
        captions = (caption.text for item in data.items("train") for caption in item.captions)
        network = start_network(config, folder, captions)
        folder.save_network_config(network.config, None if config.train_vision else network.vision)
        return network.train()

    def _open_miner(self) -> OneStream:
        """The bi-encoder of another run; it must have the same frozen backbone and the same tokenizer."""
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
        """No decay for biases, norms and scalars."""
        learnt = [value for value in self._network.parameters() if value.requires_grad]
        decay, rest = ([v for v in learnt if (v.ndim > 1) is wide] for wide in (True, False))
        return [{"params": decay, "weight_decay": self._config.weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def _ready_dev(self) -> Ready:
        alone = self._config.objective == "ce" and not self._config.miner
        most = min(self._config.dev_items, EXHAUSTIVE_DEV_ITEMS) if alone else self._config.dev_items
        return self._splits.ready("dev", most=most, on_images=self._tell_images)

    def _rounds(self, feed: Feed, dev: Ready, state: State, mined: dict[str, Tensor]) -> State:
        """From `state` to the end."""
        config = self._config
        losses: dict[str, list[float]] = defaultdict(list)
        with Tracker(self._folder, tensorboard=config.tensorboard) as tracker, Ahead(feed, config) as ahead:
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
        if self._accelerator.is_main_process:
            state = replace(state, finished=True)
            self._folder.save_last(self._network, self._inner, feed.mined, state)
        return state

    def _round(self, batches: Sequence[Sequence[Batch | None]], number: int) -> Iterator[tuple[str, float]]:
        """One optimiser step per task; `batches[turn][step]`."""
        config = self._config
        rate = config.learning_rate * _share(number, config.warm_up, config.rounds)
        start = time.monotonic()
        for turn, task in enumerate(config.order):
            for group in self._inner.param_groups:
                group["lr"] = rate
            self._optimiser.zero_grad()
            total = 0.0
            for step, batch in enumerate(batches[turn]):
                if batch is None:
                    continue
                seed = draw_seed(config.seed, number, turn, step)
                torch.manual_seed(seed)  # dropout: a resumed run draws the same
                loss = self._objectives(task, batch, seed) / config.accumulate
                self._accelerator.backward(loss)
                total += loss.item()
                self._pairs += len(batch) * self._accelerator.num_processes
            self._accelerator.clip_grad_norm_(self._network.parameters(), config.clip)
            self._optimiser.step()
            yield task, total
        self._pair_seconds += time.monotonic() - start

    def _evaluate(self, dev: Ready, state: State, feed: Feed, losses: Mapping[str, Sequence[float]], tracker: Tracker) -> State:
        """Score the dev split, write a line and checkpoints."""
        if not self._accelerator.is_main_process:
            self._accelerator.wait_for_everyone()
            return state
        config = self._config
        alone = config.objective == "ce" and not config.miner
        k = 0 if config.objective == "be" else len(dev.corpus.texts) if alone else config.k
        figures = dev_scores(self._network, self._retriever, dev.corpus, dev.visuals, k=k, device=self._device)
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
        self._show(Progress("train", state.round, config.rounds, dev=score))
        if better:
            self._folder.save_best(self._network)
        self._folder.save_last(self._network, self._inner, feed.mined, state)
        self._folder.save_problems(self._splits.problems)
        self._accelerator.wait_for_everyone()
        return state

    def _tell_images(self, what: str, done: int, total: int) -> None:
        self._show(Progress(what, done, total))

    def _tell_round(self, state: State, losses: Mapping[str, Sequence[float]]) -> None:
        recent = [value for values in losses.values() for value in values[-20:]]
        rate = self._pairs / max(self._pair_seconds, 1e-9)
        self._show(Progress("train", state.round, self._config.rounds, loss=float(np.mean(recent)), pairs_per_s=rate))


def _share(number: int, warm_up: int, rounds: int) -> float:
    """Learning rate of a round as a share of the highest: a linear rise, then a cosine to zero."""
    return min((number + 1) / max(1, warm_up), 0.5 * (1 + math.cos(math.pi * min(1.0, number / max(1, rounds)))))
