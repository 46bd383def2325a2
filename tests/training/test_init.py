"""Pretrained checkpoints: tiny ones with random weights, of the true classes, saved as a hub's are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, processors
from torch import nn

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import TrainingError
from milvus_coop.offline.training.networks.one_stream import OneStream
from milvus_coop.offline.training.networks.pretrained import open_vision
from milvus_coop.offline.training.networks.vision import load_vision, save_vision
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.folder import RunFolder
from milvus_coop.offline.training.run.start import start_network

SAME = 2e-5  # float32 sums in another order
WORDS = ["a", "red", "green", "blue", "picture", "something", "left", "of"]
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
}
PATCHES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def save_tokenizer(folder: Path, special: tuple[str, str, str, str]) -> None:
    """A fast tokenizer with one entry per word; `special`: start, padding, end, unknown."""
    start, pad, end, unknown = special
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, vocabulary[token]) for token in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ends)
    names = {"cls_token": start, "pad_token": pad, "sep_token": end, "unk_token": unknown}
    fast: Any = transformers.PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def save_text(folder: Path, kind: str, **changes: Any) -> Path:
    torch.manual_seed(0)
    config: Any = {
        "bert": transformers.BertConfig,
        "visual_bert": transformers.VisualBertConfig,
        "roberta": transformers.RobertaConfig,
        "xlm-roberta": transformers.XLMRobertaConfig,
        "distilbert": transformers.DistilBertConfig,
    }[kind]
    size = 17  # more than the tokenizer has, as in many published checkpoints
    sizes = {"vocab_size": size, **TEXT} if kind != "distilbert" else {"vocab_size": size, "dim": 32, "n_heads": 4, "n_layers": 1}
    model = transformers.AutoModel.from_config(config(**{**sizes, **changes}))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))  # fresh norms and biases would hide what is mixed up
    model.save_pretrained(folder)
    save_tokenizer(folder, ("[CLS]", "[PAD]", "[SEP]", "[UNK]") if "bert" in kind.split("_") else ("<s>", "<pad>", "</s>", "<unk>"))
    return folder


def start(init: Path, folder: Path, **changes: Any) -> OneStream:
    sizes = {"image_size": 32, "max_length": 16, **changes}
    run = RunFolder(folder / "run")
    run.make()
    return start_network(TrainConfig("be", "unused", init=str(init), **sizes), run, []).eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bert", "visual_bert", "roberta", "xlm-roberta"])
def test_text_states_are_those_of_the_checkpoint(kind: str, tmp_path: Path) -> None:
    init = save_text(tmp_path / "checkpoint", kind)
    model = transformers.AutoModel.from_pretrained(init).eval()
    network = start(init, tmp_path)
    ids, mask = torch.randint(4, 12, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    ids[:, 0] = network.config.cls_id
    mask[1, 5:], mask[2, 3:] = 0, 0
    ids[mask == 0] = network.config.pad_id
    wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state
    states = network._run(network._text_states(ids), mask.float())
    assert (states - wanted)[mask == 1].abs().max() < SAME
    assert wanted.std() > 0.5
    assert (network.config.cls_id, network.config.pad_id) == ((0, 1))


@torch.no_grad()
def test_a_visual_bert_goes_on_reading_pairs(tmp_path: Path) -> None:
    """With its own projection of regions in place of ours, the pair's states are those of the checkpoint."""
    init = save_text(tmp_path / "checkpoint", "visual_bert", visual_embedding_dim=64)
    model: Any = transformers.VisualBertModel.from_pretrained(init)
    network = start(init, tmp_path, token_dim=64)
    network.widen.load_state_dict(model.embeddings.visual_projection.state_dict())
    network.slots.weight.zero_()
    ids, tokens = torch.randint(4, 12, (3, 9)), torch.randn(3, network.config.tokens, 64)
    kinds = torch.ones(tokens.shape[:2], dtype=torch.int64)
    wanted = model.eval()(input_ids=ids, visual_embeds=tokens, visual_token_type_ids=kinds).last_hidden_state
    states = torch.cat([network._text_states(ids), network._image_states(tokens)], dim=1)
    assert (network._run(states, torch.ones(states.shape[:2])) - wanted).abs().max() < SAME


def test_fewer_layers_are_the_first_ones(tmp_path: Path) -> None:
    init = save_text(tmp_path / "checkpoint", "bert")
    network = start(init, tmp_path, layers=2)
    source = transformers.AutoModel.from_pretrained(init).state_dict()
    assert len(network.layers) == 2
    assert torch.equal(network.layers[1].get_parameter("query.weight"), source["encoder.layer.1.attention.self.query.weight"])


def test_texts_are_no_longer_than_the_checkpoint_reads(tmp_path: Path) -> None:
    assert start(save_text(tmp_path / "checkpoint", "roberta"), tmp_path, max_length=64).config.max_length == 18


def test_half_precision_checkpoints_are_widened(tmp_path: Path) -> None:
    init = save_text(tmp_path / "checkpoint", "bert")
    transformers.AutoModel.from_pretrained(init).half().save_pretrained(init)
    assert {value.dtype for value in start(init, tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("kind", "changes", "run", "message"),
    [
        ("distilbert", {}, {}, "is a distilbert model; expected: bert or visual_bert or roberta or xlm-roberta"),
        ("bert", {"hidden_act": "relu"}, {}, "use relu; expected: gelu"),
        ("bert", {}, {"width": 64}, "width is 64, and that of .* is 32"),
    ],
)
def test_text_checkpoints_that_do_not_fit(
    kind: str, changes: dict[str, Any], run: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        start(save_text(tmp_path / "checkpoint", kind, **changes), tmp_path, **run)


def only_pickle(folder: Path, model: nn.Module) -> None:
    """As old checkpoints are."""
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_text_weights_in_a_pickle_are_refused(tmp_path: Path) -> None:
    init = save_text(tmp_path / "checkpoint", "bert")
    only_pickle(init, transformers.AutoModel.from_pretrained(init))
    with pytest.raises(TrainingError, match=r"cannot be opened: .*safetensors.*; expected: a run, a bundle .* in safetensors"):
        start(init, tmp_path)
    with pytest.raises(TrainingError, match="missing' cannot be opened"):
        start(tmp_path / "missing", tmp_path)


def vit() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(**PATCHES))


def clip() -> nn.Module:
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=PATCHES, text_config={**TEXT, "vocab_size": 20}))


def clip_vision() -> nn.Module:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**PATCHES))


def siglip() -> nn.Module:
    return transformers.SiglipModel(transformers.SiglipConfig(vision_config=PATCHES, text_config={**TEXT, "vocab_size": 20}))


def dinov2() -> nn.Module:
    return transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**PATCHES, num_register_tokens=3))


def resnet() -> nn.Module:
    return transformers.ResNetModel(transformers.ResNetConfig(**STAGES))


SQUARE = {"height": 32, "width": 32}
CHECKPOINTS: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any], str, int, int]] = {
    # model, image processor, its sizes, fit, cells, features
    "vit": (vit, transformers.ViTImageProcessor, {"size": SQUARE}, "stretch", 16, 24),
    "clip": (clip, transformers.CLIPImageProcessor, {"size": {"shortest_edge": 32}, "crop_size": SQUARE}, "crop", 16, 24),
    "clip-vision": (
        clip_vision,
        transformers.CLIPImageProcessor,
        {"size": {"shortest_edge": 32}, "crop_size": SQUARE},
        "crop",
        16,
        24,
    ),
    "siglip": (siglip, transformers.SiglipImageProcessor, {"size": SQUARE}, "stretch", 16, 24),
    "dinov2": (dinov2, transformers.BitImageProcessor, {"size": {"shortest_edge": 36}, "crop_size": SQUARE}, "crop", 16, 24),
    "resnet": (resnet, transformers.ConvNextImageProcessor, {"size": {"shortest_edge": 64}}, "crop", 4, 20),
}


def save_model(folder: Path, name: str) -> tuple[Any, Any]:
    make, processor, sizes, *_ = CHECKPOINTS[name]
    torch.manual_seed(0)
    model: Any = make().eval()
    model.save_pretrained(folder)
    made = processor(**sizes)
    made.save_pretrained(folder)
    return model, made


@torch.no_grad()
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_vision_model_gives_its_own_features(name: str, tmp_path: Path) -> None:
    model, processor = save_model(tmp_path / "checkpoint", name)
    *_, fit, cells, features = CHECKPOINTS[name]
    vision = open_vision(str(tmp_path / "checkpoint"))
    size = vision.config.image.size
    assert (vision.config.image.fit, vision.config.cells, vision.config.features) == (fit, cells, features)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, size, size)).astype(np.uint8)
    fixed = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    normalised = processor(list(pixels.transpose(0, 2, 3, 1)), **fixed)["pixel_values"]
    tower = model.vision_model if name in {"clip", "siglip"} else model
    states = tower(pixel_values=normalised).last_hidden_state
    wanted = states.flatten(2).transpose(1, 2) if states.ndim == 4 else states[:, -cells:]
    found = vision(torch.from_numpy(pixels))
    assert found.shape == (2, cells, features)
    assert (found - wanted).abs().max() < SAME
    save_vision(vision, tmp_path / "ours")
    again = load_vision(tmp_path / "ours")
    assert torch.equal(again(torch.from_numpy(pixels)), found)
    assert torch.equal(open_vision(str(tmp_path / "ours"))(torch.from_numpy(pixels)), found)


@torch.no_grad()
def test_the_grid_can_be_pooled(tmp_path: Path) -> None:
    save_model(tmp_path, "vit")
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    grid = open_vision(str(tmp_path))(pixels).transpose(1, 2).unflatten(2, (4, 4))
    pooled = open_vision(str(tmp_path), side=2)(pixels)
    assert torch.allclose(pooled, torch.nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2), atol=SAME)


def test_the_processor_decides_how_pixels_are_made(tmp_path: Path) -> None:
    save_model(tmp_path, "vit")
    plain = transformers.ViTImageProcessor(size=SQUARE, do_normalize=False, resample=3)
    plain.save_pretrained(tmp_path)
    found = open_vision(str(tmp_path)).config.image
    assert found == ImageSpec(32, mean=(0.0,) * 3, std=(1.0,) * 3, resampling="bicubic", fit="stretch")
    transformers.ViTImageProcessor(size=SQUARE, resample=1).save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match=r"Pillow's filter 1; expected: 2 or 3"):
        open_vision(str(tmp_path))


def test_vision_weights_in_half_precision_are_widened(tmp_path: Path) -> None:
    model, _ = save_model(tmp_path, "vit")
    model.half().save_pretrained(tmp_path)
    vision = open_vision(str(tmp_path))
    assert {value.dtype for value in vision.parameters()} == {torch.float32}
    save_vision(vision, tmp_path / "ours")
    assert {value.dtype for value in load_vision(tmp_path / "ours").parameters()} == {torch.float32}


def test_vision_weights_in_a_pickle_are_refused(tmp_path: Path) -> None:
    model, _ = save_model(tmp_path, "vit")
    only_pickle(tmp_path, model)
    with pytest.raises(TrainingError, match=r"cannot be opened as a vision model: .*safetensors.*; expected: conv, "):
        open_vision(str(tmp_path))


def test_a_text_model_sees_nothing(tmp_path: Path) -> None:
    save_text(tmp_path, "bert")
    with pytest.raises(TrainingError, match="vision model"):
        open_vision(str(tmp_path))


@pytest.mark.parametrize("role", ["text", "vision"])
def test_code_in_a_checkpoint_is_never_run(role: str, tmp_path: Path) -> None:
    """A checkpoint that brings its own classes is refused; what stands in its files is not imported."""
    if role == "text":
        save_text(tmp_path / "checkpoint", "bert")
    else:
        save_model(tmp_path / "checkpoint", "vit")
    trap = tmp_path / "trap"
    (tmp_path / "checkpoint" / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nConfig = Model = None\n")
    foreign = '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}'
    (tmp_path / "checkpoint" / "config.json").write_text(foreign)
    with pytest.raises(TrainingError, match="cannot be opened"):
        start(tmp_path / "checkpoint", tmp_path) if role == "text" else open_vision(str(tmp_path / "checkpoint"))
    assert not trap.exists()
