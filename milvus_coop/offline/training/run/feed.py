"""Batches for the tasks, from the corpus, images and mined negatives of the pass that a round belongs to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from milvus_coop.cores import thread_count
from milvus_coop.errors import TrainingError
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.offline.datasets import DataProblem, Dataset, Split
from milvus_coop.offline.training.data.corpus import TrainingCorpus, tokenise
from milvus_coop.offline.training.data.features import FeatureCache
from milvus_coop.offline.training.data.sampling import Sampler, caption_choices
from milvus_coop.offline.training.data.visuals import Pixels, Visuals
from milvus_coop.offline.training.networks.one_stream import OneStream
from milvus_coop.offline.training.objectives.negatives import mine
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.order import TASKS, Task
from milvus_coop.offline.training.run.scoring import embed
from milvus_coop.offline.training.run.tasks import TrainingBatch
from milvus_coop.types import Array

OnImages = Callable[[str, int, int], None]
"""Takes (stage, images done, images in all)."""


@dataclass(frozen=True)
class ReadySplit:
    """A split from which batches can be fetched."""

    corpus: TrainingCorpus
    visuals: Visuals


class Splits:
    """Prepares splits: it tokenises captions and runs a frozen backbone over the images."""

    def __init__(
        self, dataset: Dataset, tokenizer: Tokenizer, network: OneStream, config: TrainConfig, device: torch.device, cache: Path
    ) -> None:
        if network.vision is None:
            raise ValueError("the network has no backbone")
        self._dataset, self._tokenizer = dataset, tokenizer
        self._spec = network.vision.config.image
        threads = thread_count(config.threads) if config.threads else None
        self._pool = ThreadPoolExecutor(threads)
        self._features = None if config.train_vision else FeatureCache(cache, network.vision, device, threads or 0)
        self._lock = threading.Lock()
        self._problems = dict.fromkeys(dataset.problems)

    def ready(self, split: Split, *, maximum: int | None = None, on_images: OnImages | None = None) -> ReadySplit:
        """A split, or its first `maximum` items. If the backbone is frozen, its features are computed."""
        items = self._dataset.items(split)[:maximum]
        visuals: Visuals = Pixels(self._dataset, items, self._spec, self._pool, self.report)
        if self._features is not None:
            done = _Counter(on_images, f"{split} images", len(items))
            with PartialState().main_process_first():  # the other processes find the files
                visuals = self._features.features(self._dataset, items, visuals, done.add)
        return ReadySplit(tokenise(items, self._tokenizer), visuals)

    @property
    def problems(self) -> list[DataProblem]:
        """The data that was left out, each problem once."""
        with self._lock:
            return list(self._problems)

    def report(self, problem: DataProblem) -> None:
        """Record that something is left out. Any thread may call this."""
        with self._lock:
            self._problems.setdefault(problem)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)


class Feed:
    """Gives the batch of any round. Negatives are mined when a pass over the data begins.

    Args:
        splits: the source of the training split.
        config: the run's configuration.
        retriever: the bi-encoder that mines negatives.
        device: the device of the batches.
        ranks: number of batches per task and round: accumulation steps times processes.
        on_images: called with the progress of reading and mining.
    """

    def __init__(
        self,
        splits: Splits,
        config: TrainConfig,
        retriever: OneStream,
        device: torch.device,
        ranks: int,
        on_images: OnImages | None,
    ) -> None:
        self._config, self._retriever, self._device, self._on_images = config, retriever, device, on_images
        self._ranks = ranks
        self._mines = any(TASKS[name].negatives for name in config.order)
        self.mined: dict[str, Tensor] = {}
        self._pass = 0
        self._data = splits.ready("train", on_images=on_images)
        batch, groups = config.batch * ranks, self._data.corpus.group
        seeds = (config.seed * 1000 + turn for turn in range(len(config.order)))
        self._samplers = [Sampler(groups, batch, seed, keep_groups=config.keep_groups) for seed in seeds]

    @property
    def size(self) -> int:
        """The number of images in the training split."""
        return len(self._data.corpus.items)

    @property
    def rounds_per_pass(self) -> int:
        """The number of rounds in which every task sees every image about once."""
        return self._samplers[0].steps

    def enter(self, round_number: int, mined: Mapping[str, Tensor] | None = None) -> None:
        """Prepare the pass that a round belongs to.

        Args:
            round_number: counted from 0.
            mined: negatives from a checkpoint that was written before this round. Those of an earlier pass are not used.
        """
        number = round_number // self.rounds_per_pass
        before = (round_number - 1) // self.rounds_per_pass if mined else self._pass
        if self._mines and mined and not self._outdated(before, number):
            self.mined = dict(mined)
        elif self._mines and (mined or not self.mined or self._outdated(before, number)):
            self.mined = self._mine()
        self._pass = number

    def _outdated(self, before: int, number: int) -> bool:
        """True if the negatives of pass `before` are too old for pass `number`, which is the same pass or the next."""
        every, rounds = self._config.mine_every, self.rounds_per_pass
        return before * rounds // every != number * rounds // every

    def batch(self, round_number: int, rank: int, turn: int, seed: int) -> TrainingBatch | None:
        """The batch of one task in one round.

        Args:
            round_number: counted from 0. Its pass must have been entered.
            rank: place among the batches of this task and round.
            turn: place of the task in the order. Each task has its own shuffling.
            seed: the seed for the draws of captions and negatives.

        Returns:
            The batch, or None if fewer than two of its images can be read.
        """
        corpus, dice = self._data.corpus, np.random.default_rng(seed)
        task = TASKS[self._config.order[turn]]
        images = np.array_split(self._samplers[turn].batch(round_number), self._ranks)[rank][: task.maximum or None]
        seen = self._data.visuals.fetch(images)
        images, visual = images[seen.usable], seen.visual[seen.usable]
        if len(images) < 2:
            return None
        captions = caption_choices(corpus.first, images, dice)
        draw = self._neighbours if task.blocks else self._negatives
        more_images, more_captions = draw(task, captions, images, dice)
        if more_images.size:
            visual = np.concatenate([visual, self._readable(more_images.ravel(), np.repeat(captions, task.negatives))])
        ids, mask = corpus.tokens(np.concatenate([captions, more_captions.ravel()]))
        rows = len(images) + np.arange(more_images.size).reshape(more_images.shape)
        if task.blocks:
            captions, images = np.append(captions, more_captions), np.append(images, more_images)
        arrays = (visual, ids, mask, corpus.same(captions, images), rows, rows)
        return TrainingBatch(*(torch.from_numpy(array).to(self._device) for array in arrays))

    def _negatives(self, task: Task, captions: Array, images: Array, dice: np.random.Generator) -> tuple[Array, Array]:
        """Negative images of each caption and negative captions of each image, int64 (B, n) twice."""
        shape = (len(images), task.negatives)
        if not task.negatives:
            return np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        corpus, n = self._data.corpus, task.negatives
        share = self._config.hard_share if task.role == "ce" else 1.0
        near_images = _draw(self.mined["images"].numpy()[captions], n, dice)
        near_captions = _draw(self.mined["captions"].numpy()[images], n, dice)
        any_images, any_captions = (dice.integers(len(what), size=shape) for what in (corpus.items, corpus.texts))
        right_images = corpus.right(np.repeat(captions, n), any_images.ravel()).reshape(shape)
        right_captions = corpus.right(any_captions.ravel(), np.repeat(images, n)).reshape(shape)
        near = dice.random((2, *shape)) < share
        return (
            np.where(near[0] | right_images, near_images, any_images),
            np.where(near[1] | right_captions, near_captions, any_captions),
        )

    def _neighbours(self, task: Task, captions: Array, images: Array, dice: np.random.Generator) -> tuple[Array, Array]:
        """Pairs near each pair, by its caption or by its image, and random pairs, as images and captions: int64 (B, n) twice.

        Near pairs are drawn log-uniformly by rank: with 50 of them, half of the draws are from the first seven.
        """
        corpus, shape = self._data.corpus, (len(images), task.negatives)
        by_caption = _draw(self.mined["images"].numpy()[captions], task.negatives, dice, first=True)
        by_image = corpus.owner[_draw(self.mined["captions"].numpy()[images], task.negatives, dice, first=True)]
        near = np.where(dice.random((len(images), 1)) < 0.5, by_caption, by_image)
        chosen = np.where(dice.random(shape) < self._config.hard_share, near, dice.integers(len(corpus.items), size=shape))
        lost = ~self._data.visuals.fetch(chosen.ravel()).usable.reshape(shape)
        chosen = np.where(lost, by_caption, chosen)  # mined images can be read: they were read before
        return chosen, caption_choices(corpus.first, chosen.ravel(), dice).reshape(shape)

    def _readable(self, negatives: Array, captions: Array) -> Array:
        """The images of negatives. An image that cannot be read is replaced by the best mined one, which was read before."""
        seen = self._data.visuals.fetch(negatives)
        lost = ~seen.usable
        if lost.any():
            seen.visual[lost] = self._data.visuals.fetch(self.mined["images"].numpy()[captions[lost], 0]).visual
        return seen.visual

    def _mine(self) -> dict[str, Tensor]:
        corpus = self._data.corpus
        found = embed(
            self._retriever,
            corpus,
            self._data.visuals,
            self._device,
            precision=self._config.precision,
            on_done=self._on_images,
        )
        mined = mine(found.texts, found.images, corpus.owner, corpus.label, self._config.mined)
        if (mined.images[:, 0] < 0).any():
            raise TrainingError("a caption has no wrong image to learn from", expected="a training set with more than one content")
        return {"images": torch.from_numpy(mined.images), "captions": torch.from_numpy(mined.captions)}


class Ahead:
    """Makes the batches of the next round in threads while the network works on the current one."""

    def __init__(self, feed: Feed, config: TrainConfig) -> None:
        self._feed, self._config = feed, config
        self._pool = ThreadPoolExecutor(1)
        self._waiting: dict[int, list[list[Future[TrainingBatch | None]]]] = {}

    def batches(self, round_number: int) -> list[list[TrainingBatch | None]]:
        """The batches of this process, as `[turn][accumulation step]`. The round's pass must have been entered."""
        futures = self._waiting.pop(round_number, None) or self._submit(round_number)
        if (round_number + 1) % self._feed.rounds_per_pass and round_number + 1 < self._config.rounds:
            self._waiting[round_number + 1] = self._submit(round_number + 1)
        return [[future.result() for future in turn] for turn in futures]

    def _submit(self, number: int) -> list[list[Future[TrainingBatch | None]]]:
        config, state = self._config, PartialState()
        steps = range(state.process_index * config.accumulate, (state.process_index + 1) * config.accumulate)
        return [
            [self._pool.submit(self._feed.batch, number, rank, turn, draw_seed(config.seed, number, turn, rank)) for rank in steps]
            for turn in range(len(config.order))
        ]

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)


def draw_seed(*parts: int) -> int:
    """A seed that depends on several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _draw(lists: Array, n: int, dice: np.random.Generator, *, first: bool = False) -> Array:
    """Draw `n` entries of each list (-1 fills its end) with replacement; `first`: log-uniformly by rank. int64 (rows, n)."""
    lengths = (lists >= 0).sum(1, keepdims=True)
    share = dice.random((len(lists), n))
    places = ((lengths + 1.0) ** share - 1.0 if first else share * lengths).astype(np.int64)
    return np.take_along_axis(lists, places, axis=1)


class _Counter:
    """Counts images for a progress display."""

    def __init__(self, show: OnImages | None, what: str, total: int) -> None:
        self._show, self._what, self._total, self._done = show, what, total, 0
        self.add(0)

    def add(self, count: int) -> None:
        """Add to the count."""
        self._done += count
        if self._show is not None:
            self._show(self._what, self._done, self._total)
