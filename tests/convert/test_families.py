"""Every family: the bundle against transformers' own processor, tokenizer and forward pass; and the whole way to hits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from milvus_coop import CoopIngest, CoopSearch, SearchResult
from milvus_coop.bundle import Bundle, load_bundle
from milvus_coop.models.backends.onnx import OnnxBackend
from milvus_coop.models.open import open_encoder
from milvus_coop.models.preprocess.images import decode
from milvus_coop.models.reranker import Reranker
from milvus_coop.offline.convert.catalogue import FAMILIES
from milvus_coop.offline.convert.families.qwen3_vl import IMAGE_SIZE
from milvus_coop.offline.convert.parity import WITH_TOKENS
from milvus_coop.serving.plans.check import check_bundle
from milvus_coop.serving.triton import Endpoints, TritonServer, export_repository, find_triton
from milvus_coop.types import Array
from tests.convert import qwen
from tests.convert.conftest import IMAGES, PAIRS, TEXTS, Pair
from tests.servers.milvus import free_ports

SAME = 2e-5
"""Embeddings and probabilities of float32 graphs; sums in another order."""
STORED = 2e-3
"""Probabilities where the image tokens went through int8."""


def processor_of(path: Path) -> Any:
    kind: Any = transformers.AutoImageProcessor
    return kind.from_pretrained(path, backend="pil")


def own_scores(path: Path, images: list[Image.Image], texts: list[str]) -> Array:
    """Match probabilities of pairs by transformers alone, one by one: images and texts through the checkpoint's own processor."""
    processor = processor_of(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    kind = transformers.AutoConfig.from_pretrained(path).model_type
    if kind == "qwen3_vl":
        return qwen.own_scores(path, images, texts, IMAGE_SIZE)
    classes: dict[str, Any] = {
        "blip": transformers.BlipForImageTextRetrieval,
        "blip-2": transformers.Blip2ForImageTextRetrieval,
        "vilt": transformers.ViltForImageAndTextRetrieval,
        "bridgetower": transformers.BridgeTowerForImageAndTextRetrieval,
    }
    model = classes[kind].from_pretrained(path).eval()
    found = []
    for image, text in zip(images, texts, strict=True):
        inputs = {**processor(image, return_tensors="pt"), **tokenizer(text, return_tensors="pt")}
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            if kind == "blip":
                logits = model(**inputs).itm_score
            elif kind == "blip-2":
                logits = model(**inputs, use_image_text_matching_head=True).logits_per_image
            else:
                if kind == "bridgetower":
                    inputs.pop("pixel_mask", None)
                logits = model(**inputs).logits
        found.append(torch.sigmoid(logits[0, 0]) if kind == "vilt" else logits.softmax(-1)[0, 1])
    return torch.stack(found).numpy()


def own_embeddings(path: Path, images: list[Image.Image], texts: list[str]) -> tuple[Array, Array]:
    """Unit embeddings by transformers alone."""
    processor = processor_of(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    kind = transformers.AutoConfig.from_pretrained(path).model_type
    if kind == "qwen3_vl":
        return qwen.own_embeddings(path, images, texts, IMAGE_SIZE)
    sight = processor(images, return_tensors="pt")
    pixels = sight["pixel_values"]
    padding = "max_length" if kind in ("siglip", "siglip2") else True
    words = tokenizer(texts, return_tensors="pt", padding=padding, truncation=True, max_length=64)
    ids, mask = words["input_ids"], words["attention_mask"]
    with torch.no_grad():
        if kind == "blip":
            blip: Any = transformers.BlipForImageTextRetrieval.from_pretrained(path)
            model: Any = blip.eval()
            out: Any = model(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_itm_head=False)
            return unit(model.vision_proj(out.last_hidden_state[:, 0])), unit(model.text_proj(out.question_embeds[:, 0]))
        both: Any = {
            "clip": transformers.CLIPModel,
            "metaclip_2": transformers.MetaClip2Model,
            "altclip": transformers.AltCLIPModel,
            "chinese_clip": transformers.ChineseCLIPModel,
            "siglip": transformers.SiglipModel,
            "siglip2": transformers.Siglip2Model,
        }[kind]
        extra = {} if kind in ("siglip", "siglip2") else {"attention_mask": mask}
        two_towers: Any = both.from_pretrained(path)
        out = two_towers.eval()(**(sight if kind == "siglip2" else {"pixel_values": pixels}), input_ids=ids, **extra)
    return out.image_embeds.numpy(), out.text_embeds.numpy()


def unit(values: torch.Tensor) -> Array:
    return torch.nn.functional.normalize(values, dim=-1).numpy()


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_outputs_are_those_of_transformers(pair: Pair, batch: int) -> None:
    decoded = [decode(path) for path in IMAGES[-batch:]]
    texts = [TEXTS[i % len(TEXTS)] for i in range(batch)]
    backend = OnnxBackend(pair.bundle)
    encoder = open_encoder(pair.bundle, backend)
    images, words = encoder.encode_images(decoded), encoder.encode_texts(texts)
    own_images, own_texts = own_embeddings(pair.be, decoded, texts)
    assert np.abs(images.embeddings - own_images).max() < SAME
    assert np.abs(words.embeddings - own_texts).max() < SAME
    scores = Reranker(backend).score_pairs(words.text_side, images.image_side)
    wanted = own_scores(pair.ce, decoded, texts)
    assert np.abs(scores.probability - wanted).max() < STORED
    assert scores.logit.shape == (batch,)


def test_the_comparison_has_something_to_compare(pair: Pair) -> None:
    """Random weights can give the same output for every image; then parity would say nothing."""
    backend = OnnxBackend(pair.bundle)
    encoder = open_encoder(pair.bundle, backend)
    images, words = encoder.encode_images([decode(path) for path in IMAGES[:8]]), encoder.encode_texts(TEXTS[:1])
    scores = Reranker(backend).score_pairs(words.text_side, images.image_side)
    assert scores.probability.std() > 20 * SAME
    assert images.embeddings.std(axis=0).max() > 100 * SAME


def test_differences_are_recorded(pair: Pair) -> None:
    differences = pair.converted.differences
    assert max(found.largest for name, found in differences.items() if name != WITH_TOKENS) < SAME
    card = (pair.bundle.folder / "README.md").read_text(encoding="utf-8")
    assert all(name in card for name in differences)
    assert load_bundle(pair.bundle.folder).spec.metrics


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "photos"
    folder.mkdir()
    for path in IMAGES[:12]:
        shutil.copy(path, folder)
    (folder.parent / "captions.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return folder


@contextmanager
def triton(bundle: Bundle, folder: Path) -> Iterator[str]:
    grpc, http, metrics = free_ports(3)
    repository = export_repository(bundle, folder / "models", "python")
    with TritonServer(find_triton(), repository, endpoints=Endpoints(grpc=grpc, http=http, metrics=metrics)):
        yield f"triton://127.0.0.1:{grpc}"


@pytest.mark.triton
def test_the_whole_way_in_process_and_through_triton(pair: Pair, photos: Path, tmp_path: Path) -> None:
    bundle, uri = pair.bundle.folder, tmp_path / "milvus.db"
    with CoopIngest("images", uri=uri, bundle=bundle) as ingest:
        assert ingest.run([photos]).added == 12
    with CoopIngest("captions", kind="text", uri=uri, bundle=bundle) as ingest:
        assert ingest.run([photos.parent / "captions.txt"]).added == len(TEXTS)
    local = results(uri, bundle, "onnx", photos)
    with triton(pair.bundle, tmp_path) as models:
        served = results(uri, bundle, models, photos)
    for ours, theirs in zip(local, served, strict=True):
        assert (ours.reason, theirs.reason) == (None, None)
        assert [hit.id for hit in ours] == [hit.id for hit in theirs]
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=SAME)
        assert ours.hits[0].ce_score is not None


def results(uri: Path, bundle: Path, models: str, photos: Path) -> list[SearchResult]:
    image = sorted(photos.iterdir())[3]
    with CoopSearch("images", uri=uri, bundle=bundle, models=models) as search:
        by_text = [search.query(text, limit=12) for text in TEXTS[:2]]
    with CoopSearch("captions", uri=uri, bundle=bundle, models=models) as search:
        return [*by_text, search.query(image=image, limit=4)]


@pytest.mark.tensorrt
def test_tensorrt_takes_every_graph(pair: Pair) -> None:
    checked = check_bundle(pair.bundle)
    assert {(graph.graph, graph.precision) for graph in checked} == {
        (name, precision) for name in ("text_encoder", "image_encoder", "cross_encoder") for precision in ("fp32", "fp16")
    }


def test_every_family_is_tested(checkpoint: Callable[[str], Path]) -> None:
    tested = {name for be, ce, _ in PAIRS.values() for name in (be, ce)}
    kinds = {transformers.AutoConfig.from_pretrained(checkpoint(name)).model_type for name in tested}
    assert kinds == {kind for family in FAMILIES for kind in family.model_types}
