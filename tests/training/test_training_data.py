"""TrainingCorpus, sampler and cached features: fast versions against naive ones, and what is computed when."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from milvus_coop.bundle.spec import ImageSpec, TextSpec
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.offline.datasets import Caption, CaptionedImage, DataProblem, Dataset, open_dataset
from milvus_coop.offline.training.data.corpus import TrainingCorpus, tokenise
from milvus_coop.offline.training.data.features import CachedFeatures, FeatureCache, vision_key
from milvus_coop.offline.training.data.sampling import Sampler, caption_choices
from milvus_coop.offline.training.data.visuals import Pixels
from milvus_coop.offline.training.networks.vision import Vision, VisionConfig
from milvus_coop.offline.training.run.start import special_ids, train_tokenizer
from milvus_coop.types import Array
from tests.training.colours import draw_colours

TEXTS = (("a dog", "Two dogs "), ("a DOG",), ("cat", "a cat on a mat", "dog"), ("a bird",), ("cat",))


def items(texts: Sequence[Sequence[str]] = TEXTS, groups: Sequence[str] = ("", "g", "", "g", "")) -> list[CaptionedImage]:
    captions = [tuple(Caption(text) for text in own) for own in texts]
    return [CaptionedImage(str(n), own, "train", group=group) for n, (own, group) in enumerate(zip(captions, groups, strict=True))]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TrainingCorpus:
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    train_tokenizer([text for own in TEXTS for text in own], path)
    return tokenise(items(), Tokenizer(path, TextSpec(6, special_ids(path)[2])))


def test_same_is_what_the_captions_say(corpus: TrainingCorpus) -> None:
    flat = [(image, text.casefold()) for image, own in enumerate(TEXTS) for text in own]
    captions, images = np.array([7, 0, 1, 2, 3, 4, 5, 6]), np.array([4, 0, 1, 2, 3])
    for row, caption in zip(corpus.same(captions, images).tolist(), captions.tolist(), strict=True):
        assert row == [any(text == flat[caption][1] for owner, text in flat if owner == image) for image in images]
    pairs = np.array([[c, i] for c in captions for i in images])
    assert corpus.right(*pairs.T).tolist() == corpus.same(captions, images).ravel().tolist()


def test_captions_are_found_by_image(corpus: TrainingCorpus) -> None:
    assert corpus.first.tolist() == [0, 2, 3, 6, 7, 8]
    assert corpus.owner.tolist() == [0, 0, 1, 2, 2, 2, 3, 4]
    assert corpus.group[1] == corpus.group[3]
    assert len(set(corpus.group.tolist())) == 4


def test_tokens_are_cut_to_the_longest(corpus: TrainingCorpus) -> None:
    ids, mask = corpus.tokens(np.array([3, 0]))  # "cat" and "a dog"
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert ids.dtype == np.int64
    assert corpus.lengths.max() == 6  # "a cat on a mat" with its ends has seven
    assert corpus.tokens(np.arange(8))[0].shape == (8, 6)


def test_a_trained_tokenizer_is_the_same_again(tmp_path: Path) -> None:
    """A `ce` of its own can then share the bi-encoder's tokenizer."""
    words = [f"{a}{b} {b}{a} thing" for a in "bcdfghjklmnpqrstvwxz" for b in "aeiou"]
    for name in "ab":
        train_tokenizer(words, tmp_path / name, vocabulary=300)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    size, start, pad = special_ids(tmp_path / "a")
    assert (size, start, pad) == (288, 1, 0)


@pytest.mark.parametrize("keep_groups", [False, True])
def test_every_pass_is_a_permutation(keep_groups: bool) -> None:
    groups = np.repeat(np.arange(10), 4)
    sampler = Sampler(groups, 8, 3, keep_groups=keep_groups)
    assert sampler.steps == 5
    passes = [np.concatenate([sampler.batch(5 * number + step) for step in range(5)]).tolist() for number in range(3)]
    assert all(sorted(order) == list(range(40)) for order in passes)
    assert passes[0] != passes[1] != passes[2]
    assert passes[0] != list(range(40))


@pytest.mark.parametrize("keep_groups", [False, True])
def test_a_batch_depends_on_seed_and_step_alone(keep_groups: bool) -> None:
    groups = np.repeat(np.arange(7), 3)
    one, other = (Sampler(groups, 5, 3, keep_groups=keep_groups) for _ in range(2))
    in_order = [one.batch(step).tolist() for step in range(12)]
    assert [other.batch(step).tolist() for step in (9, 2, 11, 2, 0)] == [in_order[step] for step in (9, 2, 11, 2, 0)]
    assert Sampler(groups, 5, 4, keep_groups=keep_groups).batch(0).tolist() != in_order[0]


def test_groups_stay_together() -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 4))
    together, shuffled = (Sampler(groups, 8, 0, keep_groups=keep) for keep in (True, False))
    for step in range(20):
        assert set(Counter(groups[together.batch(step)].tolist()).values()) == {4}
    assert any(len(set(groups[shuffled.batch(step)].tolist())) > 2 for step in range(20))
    assert len({tuple(sorted(set(groups[together.batch(step)].tolist()))) for step in range(20)}) > 5  # and meet others each time


def test_small_data_is_one_batch() -> None:
    sampler = Sampler(np.arange(3), 64, 0)
    assert sampler.steps == 1
    assert sorted(sampler.batch(5).tolist()) == [0, 1, 2]


def test_captions_are_chosen_evenly() -> None:
    first = np.array([0, 2, 3, 6])
    dice = np.random.default_rng(0)
    draws = np.stack([caption_choices(first, np.array([2, 0, 1]), dice) for _ in range(3000)])
    counts = [Counter(column.tolist()) for column in draws.T]
    assert [set(count) for count in counts] == [{3, 4, 5}, {0, 1}, {2}]
    assert max(counts[0].values()) - min(counts[0].values()) < 200
    assert abs(counts[1][0] - counts[1][1]) < 250


class Computed:
    """Features of a small backbone, and which files were written for them."""

    def __init__(self, folder: Path, dataset: Dataset, shard: int = 4) -> None:
        torch.manual_seed(0)
        self.folder, self.dataset, self.problems = folder, dataset, list[DataProblem]()
        image = ImageSpec(32, mean=(0.5,) * 3, std=(0.5,) * 3)
        self.vision = Vision(VisionConfig("conv", image, 4, 4, 8, {"widths": [4, 6, 8]})).eval()
        self.cache = FeatureCache(folder, self.vision, torch.device("cpu"), 1, shard)

    def features(self, pool: ThreadPoolExecutor) -> tuple[CachedFeatures, list[Path]]:
        """Features, and the files that were written for them."""
        self.problems = []
        found = self.dataset.items("train")
        before = {path: path.stat().st_mtime_ns for path in self.folder.rglob("*.npy")}
        pixels = Pixels(self.dataset, found, self.vision.config.image, pool, self.problems.append)
        features = self.cache.features(self.dataset, found, pixels)
        return features, [path for path in self.folder.rglob("*.npy") if before.get(path) != path.stat().st_mtime_ns]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def test_features_are_computed_once(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """16 images in shards of 4; a changed image costs its own shard, another backbone all of them."""
    (tmp_path / "data").mkdir()
    data = draw_colours(tmp_path / "data")
    computed = Computed(tmp_path / "cache", open_dataset(str(data)))
    first, written = computed.features(pool)
    assert (len(first), len(written)) == (16, 4)
    again, written = computed.features(pool)
    assert written == []
    everything = np.arange(16)
    assert np.array_equal(first.fetch(everything).visual, again.fetch(everything).visual)
    changed = computed.dataset.items("train")[5]
    assert changed.path is not None
    os.utime(changed.path, ns=(1, 1))
    _, written = computed.features(pool)
    assert len(written) == 1


def test_another_backbone_has_files_of_its_own(tmp_path: Path) -> None:
    vision = Vision(VisionConfig("conv", ImageSpec(32, mean=(0.5,) * 3, std=(0.5,) * 3), 4, 4, 8, {"widths": [4, 6, 8]}))
    keys = [vision_key(vision)]
    for change in ("stages.1.running_mean", "stages.0.weight"):
        with torch.no_grad():
            vision.backbone.state_dict()[change].add_(1.0)
        keys.append(vision_key(vision))
    vision.config = replace(vision.config, image=replace(vision.config.image, fit="crop"))
    assert len({*keys, vision_key(vision)}) == 4


def test_cached_features_are_the_backbone_s(colours: Path, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    computed = Computed(tmp_path, open_dataset(str(colours)), shard=5)
    features, _ = computed.features(pool)
    found = computed.dataset.items("train")
    order = np.array([11, 0, 4, 5, 15])
    pixels = Pixels(computed.dataset, found, computed.vision.config.image, pool, computed.problems.append).fetch(order)
    with torch.no_grad():
        wanted = computed.vision(torch.from_numpy(pixels.visual)).numpy()
    seen = features.fetch(order)
    assert seen.visual.dtype == np.float16
    assert np.allclose(seen.visual, wanted, atol=2e-3)  # half precision
    assert seen.usable.all()
    assert features.fetch(order[:0]).visual.shape == (0, 16, 8)


def test_an_unreadable_image_is_named_each_time(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Also where its features come from the cache."""
    (tmp_path / "data").mkdir()
    data = draw_colours(tmp_path / "data")
    (tmp_path / "data" / "blue1.png").write_bytes((tmp_path / "data" / "blue1.png").read_bytes()[:200])
    computed = Computed(tmp_path / "cache", open_dataset(str(data)))
    for _ in range(2):
        features, _ = computed.features(pool)
        assert [problem.place for problem in computed.problems] == ["blue1.png"]
        assert features.fetch(np.arange(16)).usable.tolist() == [n != 5 for n in range(16)]


class Drawn:
    """A data set that draws its images: all of one grey."""

    name = "drawn"
    problems: Sequence[DataProblem] = ()

    def __init__(self, grey: int) -> None:
        self.grey = grey

    def items(self, split: str) -> Sequence[CaptionedImage]:
        return [CaptionedImage(f"{n}", (Caption("grey"),), "train") for n in range(6)]

    def open(self, item: CaptionedImage) -> Image.Image:
        return Image.new("RGB", (32, 32), (self.grey,) * 3)


def test_drawn_images_of_one_name_are_told_apart(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """The caption and the id of a drawn image do not say what it looks like."""
    means: list[Array] = []
    drawn = Drawn(20)
    computed = Computed(tmp_path, drawn)
    for grey in (20, 200, 20):
        drawn.grey = grey
        features, written = computed.features(pool)
        means.append(features.fetch(np.arange(6)).visual)
        assert len(written) == (2 if len(means) < 3 else 0)
    assert not np.array_equal(means[0], means[1])
    assert np.array_equal(means[0], means[2])


def test_large_features_stay_finite(tmp_path: Path, pool: ThreadPoolExecutor, colours: Path) -> None:
    computed = Computed(tmp_path, open_dataset(str(colours)))
    with torch.no_grad():
        for name, value in computed.vision.named_parameters():
            if name.endswith("weight") and value.ndim == 1:
                value.fill_(1e4)
    assert np.isfinite(computed.features(pool)[0].fetch(np.arange(16)).visual).all()
