"""Runs become bundles: the graphs say what PyTorch says, in files, in Milvus Lite, and to TensorRT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from milvus_coop import CoopIngest, CoopSearch, load_bundle
from milvus_coop.bundle.folder import Bundle
from milvus_coop.errors import DatasetError, TrainingError
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.tokens import quantise
from milvus_coop.offline.datasets import open_dataset
from milvus_coop.offline.training.bundling.export import LARGEST_DIFFERENCE, Exported, export_run
from milvus_coop.offline.training.bundling.roles import CrossEncoderGraph
from milvus_coop.offline.training.data.visuals import item_pixels
from milvus_coop.offline.training.networks.one_stream import OneStream
from milvus_coop.offline.training.run.folder import load_network
from milvus_coop.offline.training.run.trainer import train
from milvus_coop.serving.plans import check_bundle
from milvus_coop.types import Array
from tests.training.colours import COLOURS, config, draw_colours

EXACT = 1e-4  # float32 in another order of operations; embeddings and probabilities are at most 1
STORED = 2e-3  # ... and the store keeps embeddings and token scales in fewer digits


@pytest.fixture(scope="module")
def joint(joint_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_run(joint_run, tmp_path_factory.mktemp("bundles") / "joint", precision="fp32", licence="CC0")


@pytest.fixture(scope="module")
def separate(be_run: Path, ce_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_run(be_run, tmp_path_factory.mktemp("bundles") / "separate", cross_encoder=ce_run, precision="int8", name="two")


class Torch:
    """What the networks themselves say of the dev images and captions."""

    def __init__(self, colours: Path, bundle: Bundle, retriever: OneStream, matcher: OneStream) -> None:
        data = open_dataset(str(colours))
        self.items = data.items("dev")
        self.captions = [item.captions[0].text for item in self.items]
        words = Tokenizer(bundle.path("tokenizer.json"), bundle.spec.text)(self.captions)
        ids, mask = (torch.from_numpy(words[name]) for name in ("input_ids", "attention_mask"))
        pixels = torch.from_numpy(np.stack([item_pixels(data, item, bundle.spec.image) for item in self.items]))
        with torch.no_grad():
            texts, images = retriever.embed_texts(ids, mask), retriever.embed_images(retriever.tokens(pixels))
            self.cosines: Array = (texts @ images.T).numpy()
            values, scales = quantise(matcher.tokens(pixels).numpy())
            pairs = torch.cartesian_prod(torch.arange(len(ids)), torch.arange(len(images)))
            stored = [torch.from_numpy(part)[pairs[:, 1]] for part in (values, scales.astype(np.float32))]
            logits = CrossEncoderGraph(matcher)(ids[pairs[:, 0]], mask[pairs[:, 0]], *stored)
            self.matches: Array = logits.view(self.cosines.shape).numpy()


def search_all(bundle: Bundle, expected: Torch, folder: Path) -> tuple[Array, Array]:
    """Cosines and match probabilities of every caption with every dev image, through Milvus Lite."""
    images = folder / "images"
    images.mkdir()
    for item in expected.items:
        assert item.path is not None
        shutil.copyfile(item.path, images / item.path.name)
    names = [item.path.name for item in expected.items if item.path is not None]
    place: dict[str, Any] = {"uri": folder / "lite.db", "bundle": bundle.folder, "threads": 1}
    with CoopIngest("images", **place) as ingest:
        assert ingest.run([images]).added == len(names)
    cosines, matches = (np.full((len(names), len(names)), np.nan) for _ in range(2))
    with CoopSearch("images", **place) as search:
        for row, caption in enumerate(expected.captions):
            result = search.query(caption, k=len(names), limit=len(names))
            assert result.reranked
            for hit in result:
                column = names.index(Path(hit.uri).name)
                cosines[row, column], matches[row, column] = hit.be_score, hit.ce_score
    return cosines, matches


def test_a_joint_bundle_searches_as_pytorch_does(joint: Exported, joint_run: Path, colours: Path, tmp_path: Path) -> None:
    network, _ = load_network(joint_run)
    expected = Torch(colours, joint.bundle, network, network)
    cosines, matches = search_all(joint.bundle, expected, tmp_path)
    assert np.abs(cosines - expected.cosines).max() < STORED
    assert np.abs(matches - expected.matches).max() < STORED
    assert expected.cosines.std() > 20 * STORED


def test_a_separate_bundle_searches_as_pytorch_does(
    separate: Exported, be_run: Path, ce_run: Path, colours: Path, tmp_path: Path
) -> None:
    """In int8: scores move a little, and nothing else is found."""
    expected = Torch(colours, separate.bundle, load_network(be_run)[0], load_network(ce_run)[0])
    cosines, matches = search_all(separate.bundle, expected, tmp_path)
    assert np.abs(cosines - expected.cosines).max() < LARGEST_DIFFERENCE["int8"]
    assert np.abs(matches - expected.matches).max() < LARGEST_DIFFERENCE["int8"]
    assert (matches.argmax(1) == expected.matches.argmax(1)).all()
    assert (matches.argmax(1) == np.arange(len(COLOURS))).mean() > 0.8
    assert expected.matches.std() > 0.1


def test_what_the_records_say(joint: Exported, separate: Exported, joint_run: Path) -> None:
    for exported, kind, precision in ((joint, "joint", "fp32"), (separate, "separate", "int8")):
        assert exported.bundle.spec.kind == kind
        assert set(exported.differences) == {"text_embedding", "image_embedding", "image_tokens", "match_probability"}
        limit = EXACT if precision == "fp32" else LARGEST_DIFFERENCE["int8"]
        assert all(0 < found.largest < limit for found in exported.differences.values())
        assert load_bundle(exported.bundle.folder).spec == exported.bundle.spec
    assert (joint.bundle.spec.name, joint.bundle.spec.licence) == ("joint", "CC0")
    assert joint.bundle.spec.lineage["run"]["config"]["objective"] == "joint"
    assert separate.bundle.spec.name == "two"
    assert set(separate.bundle.spec.lineage) == {"bi_encoder", "cross_encoder"}
    assert separate.bundle.spec.lineage["cross_encoder"]["config"]["order"] == ["ce-list"]
    weights = [exported.bundle.path("weights.bin").stat().st_size for exported in (joint, separate)]
    floats = sum(value.numel() for value in load_file(joint_run / "best" / "network.safetensors").values())
    assert weights[0] < 1.1 * 4 * floats  # shared by the three graphs, once on disk
    assert weights[1] < weights[0]  # although there are two transformers
    assert not (joint.bundle.folder.parent / ".export-").exists()
    assert sorted(path.name for path in joint.bundle.folder.parent.iterdir()) == ["joint"]


def test_a_bundle_can_be_trained_further(joint: Exported, joint_run: Path, colours: Path, tmp_path: Path) -> None:
    network, _ = load_network(joint.bundle.folder)
    first, _ = load_network(joint_run)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), first.state_dict().values(), strict=True))
    sizes = dict.fromkeys(("width", "layers", "heads", "image_size"), 0)
    change: dict[str, Any] = {"init": str(joint.bundle.folder), "learning_rate": 1e-9, "rounds": 1, "eval_every": 1, **sizes}
    report = train(config(colours, **change), tmp_path / "run", cache=tmp_path / "cache")
    best = max(json.loads(line)["dev"]["coop_mr"] for line in (joint_run / "metrics.jsonl").read_text().splitlines())
    assert report.best == pytest.approx(best, abs=5)  # features are float16 now


def files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_a_target_that_exists_is_refused(joint_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(TrainingError, match=r"mine exists; expected: a folder that is not there yet"):
        export_run(joint_run, tmp_path / "mine")
    assert files(tmp_path) == {str(tmp_path / "mine")}


def test_runs_without_a_role_are_refused(be_run: Path, ce_run: Path, joint_run: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"trained a be; expected: a run of joint; try: milvus-coop export BE_RUN --ce CE_RUN"):
        export_run(be_run, tmp_path / "out")
    with pytest.raises(TrainingError, match="trained a ce; expected: a run of be or joint"):
        export_run(ce_run, tmp_path / "out", cross_encoder=ce_run)
    with pytest.raises(TrainingError, match="trained a be; expected: a run of ce or joint"):
        export_run(joint_run, tmp_path / "out", cross_encoder=be_run)
    with pytest.raises(TrainingError, match="is not a run"):
        export_run(tmp_path, tmp_path / "out")
    assert files(tmp_path) == set()


def copy_run(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("last", "tensorboard"))
    return folder


def test_different_tokenizers_are_refused(be_run: Path, ce_run: Path, tmp_path: Path) -> None:
    other = copy_run(ce_run, tmp_path / "other")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    with pytest.raises(TrainingError, match=r"have different tokenizers.*--init BE_RUN"):
        export_run(be_run, tmp_path / "out", cross_encoder=other)
    assert not (tmp_path / "out").exists()


def test_different_images_are_refused(be_run: Path, ce_run: Path, tmp_path: Path) -> None:
    other = copy_run(be_run, tmp_path / "other")
    network = json.loads((other / "network.json").read_text())
    network["vision"]["image"]["fit"] = "crop"
    (other / "network.json").write_text(json.dumps(network))
    with pytest.raises(TrainingError, match="images of different sizes or colours"):
        export_run(other, tmp_path / "out", cross_encoder=ce_run)


def test_checkpoints_that_are_no_numbers_are_refused(joint_run: Path, tmp_path: Path) -> None:
    """Nothing is left behind, also no temporary folder."""
    other = copy_run(joint_run, tmp_path / "other")
    weights = load_file(other / "best" / "network.safetensors")
    weights["project.bias"][0] = float("nan")
    save_file(weights, other / "best" / "network.safetensors")
    before = files(tmp_path)
    with pytest.raises(TrainingError, match=r"project\.bias in the checkpoint of .* has values that are not numbers"):
        export_run(other, tmp_path / "out")
    assert files(tmp_path) == before


def test_unreadable_images_do_not_stop_an_export(joint_run: Path, tmp_path: Path) -> None:
    data = draw_colours(tmp_path)
    for colour in list(COLOURS)[2:]:
        (tmp_path / f"{colour}2.png").write_bytes(b"no image")
    broken = str(data)
    (tmp_path / "red2.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="has 1 usable items; expected: at least 2"):
        export_run(joint_run, tmp_path / "out", data=broken)


def test_too_many_tokens_for_a_collection(joint_run: Path, tmp_path: Path) -> None:
    other = copy_run(joint_run, tmp_path / "other")
    network = json.loads((other / "network.json").read_text())
    network.update(tokens=900, compress="cells")
    (other / "network.json").write_text(json.dumps(network))
    weights = load_file(other / "best" / "network.safetensors")
    weights["slots.weight"] = torch.zeros(900, 32)
    save_file(weights, other / "best" / "network.safetensors")
    network["token_dim"] = 64
    weights |= {
        "compressor.narrow.weight": torch.zeros(64, 128),
        "compressor.narrow.bias": torch.zeros(64),
        "widen.weight": torch.zeros(32, 64),
    }
    (other / "network.json").write_text(json.dumps(network))
    save_file(weights, other / "best" / "network.safetensors")
    with pytest.raises(TrainingError, match=r"900 tokens of 64 are .* bytes per image; expected: at most 49,000"):
        export_run(other, tmp_path / "out")


@pytest.mark.tensorrt
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("kind", ["joint", "separate"])
def test_tensorrt_takes_the_graphs(kind: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(kind)
    checked = check_bundle(exported.bundle, precisions=("fp32", "fp16"))
    assert [(found.graph, found.precision) for found in checked] == [
        (graph.name, precision) for precision in ("fp32", "fp16") for graph in exported.bundle.spec.graphs
    ]
