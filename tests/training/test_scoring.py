"""The dev score against loops over queries and candidates."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from milvus_coop.bundle.spec import TextSpec
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.offline.datasets import open_dataset
from milvus_coop.offline.training.data.corpus import TrainingCorpus, tokenise
from milvus_coop.offline.training.data.visuals import FetchedImages
from milvus_coop.offline.training.networks.one_stream import NetworkConfig, OneStream
from milvus_coop.offline.training.run.scoring import dev_scores, embed, pair_logits
from milvus_coop.types import Array
from tests.training.test_networks import VISION

CPU = torch.device("cpu")
SAME = 1e-4  # float32 sums in another order
ITEMS = 12


class Features:
    """Random features; the image at `broken` cannot be read."""

    def __init__(self, broken: int) -> None:
        self._broken = broken
        self._values = np.random.default_rng(0).normal(size=(ITEMS, VISION.cells, VISION.features)).astype(np.float16)

    def __len__(self) -> int:
        return ITEMS

    def fetch(self, positions: Array) -> FetchedImages:
        return FetchedImages(self._values[positions], positions != self._broken)


class Pool(NamedTuple):
    network: OneStream
    corpus: TrainingCorpus
    visuals: Features


@pytest.fixture(scope="module")
def pool(be_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Captions of many lengths, some of two images, and a network that has learnt nothing."""
    dice = np.random.default_rng(1)
    words = np.array(["red", "green", "blue", "a", "something", "picture"])
    lines = []
    folder = tmp_path_factory.mktemp("pool")
    for number in range(ITEMS):
        (folder / f"{number}.png").write_bytes(b"")
        captions = [" ".join(dice.choice(words, dice.integers(2, 9))) for _ in range(2)] + [f"shared {number // 2}"]
        lines.append(f'{{"image": "{number}.png", "captions": {captions}, "split": "dev"}}'.replace("'", '"'))
    (folder / "list.jsonl").write_text("\n".join(lines))
    data = open_dataset(str(folder / "list.jsonl"))
    corpus = tokenise(data.items("dev"), Tokenizer(be_run / "tokenizer.json", TextSpec(16, 0)))
    torch.manual_seed(0)
    return Pool(OneStream(NetworkConfig(VISION, 400, 16, 1, 0, 16, 16, "cells", 32, 2, 4, 64, 24)), corpus, Features(broken=4))


@torch.no_grad()
def test_embeddings_are_in_the_order_of_the_split(pool: Pool) -> None:
    network = pool.network.eval()
    found = embed(network, pool.corpus, pool.visuals, CPU)
    for position in range(len(pool.corpus.texts)):
        ids, mask = (torch.from_numpy(part) for part in pool.corpus.tokens(np.array([position])))
        assert torch.allclose(found.texts[position], network.embed_texts(ids, mask)[0], atol=SAME)
    for position in range(ITEMS):
        seen = pool.visuals.fetch(np.array([position]))
        tokens = network.tokens(torch.from_numpy(seen.visual))
        assert torch.allclose(found.tokens[position], tokens[0], atol=SAME)
        if seen.usable[0]:
            assert torch.allclose(found.images[position], network.embed_images(tokens)[0], atol=SAME)
        else:
            assert found.images[position].isnan().all()


@torch.no_grad()
def test_pairs_are_scored_in_the_order_that_they_are_given(pool: Pool) -> None:
    network = pool.network.eval()
    tokens = embed(network, pool.corpus, pool.visuals, CPU).tokens
    pairs = np.random.default_rng(2).integers(0, ITEMS, (30, 2))
    logits = pair_logits(network, pool.corpus, tokens, pairs)
    for (caption, image), logit in zip(pairs.tolist(), logits.tolist(), strict=True):
        ids, mask = (torch.from_numpy(part) for part in pool.corpus.tokens(np.array([caption])))
        assert logit == pytest.approx(network.match(ids, mask, tokens[image : image + 1]).item(), abs=SAME)


@pytest.mark.parametrize("queries", [0, 5])
def test_the_dev_score_is_the_loop_over_queries(pool: Pool, queries: int) -> None:
    network, corpus, k = pool.network, pool.corpus, 4
    figures = dev_scores(network, network, corpus, pool.visuals, k=k, device=CPU, queries=queries)
    found = embed(network, corpus, pool.visuals, CPU)
    cosines = np.nan_to_num((found.texts @ found.images.T).numpy(), nan=-2.0)
    means: dict[str, list[float]] = {"be": [], "coop": [], "before": []}
    for direction, matrix in (("t2i", cosines), ("i2t", cosines.T)):
        ranks: dict[str, list[int]] = {"be": [], "coop": [], "before": []}
        possible = []
        for query in range(len(matrix)):
            pairs = [(query, other) if direction == "t2i" else (other, query) for other in range(matrix.shape[1])]
            right = {
                other
                for other, (caption, image) in enumerate(pairs)
                if image != 4 and bool(corpus.same(np.array([caption]), np.array([image]))[0, 0])
            }
            if right:
                possible.append((query, pairs, right))
        chosen = {round(place) for place in np.linspace(0, len(possible) - 1, queries or len(possible)).tolist()}
        for place, (query, pairs, right) in enumerate(possible):
            order = sorted(range(matrix.shape[1]), key=lambda other: -matrix[query, other])
            before = 1 + min(order.index(other) for other in right)
            ranks["be"].append(before)
            if place in chosen:
                logits = pair_logits(network, corpus, found.tokens, np.array([pairs[other] for other in order[:k]]))
                again = [order[number] for number in np.argsort(-logits, kind="stable")] + order[k:]
                ranks["before"].append(before)
                ranks["coop"].append(1 + min(again.index(other) for other in right))
        for role, found_at in ranks.items():
            for depth in (1, 5, 10):
                percent = 100 * float(np.mean([rank <= depth for rank in found_at]))
                means[role].append(percent)
                if role != "before":
                    assert figures[f"{role}_{direction}_r{depth}"] == pytest.approx(percent, abs=1e-3)
    assert figures["be_mr"] == pytest.approx(np.mean(means["be"]), abs=1e-3)
    assert figures["coop_mr"] == pytest.approx(np.mean(means["coop"]), abs=1e-3)
    assert figures["gain_mr"] == pytest.approx(np.mean(means["coop"]) - np.mean(means["before"]), abs=2e-3)
    assert means["coop"] != means["before"]
