"""The network that a run starts with, and its tokenizer: new ones, or those of another run or of a text checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from milvus_coop.errors import TrainingError
from milvus_coop.offline.training.networks.one_stream import NetworkConfig, OneStream
from milvus_coop.offline.training.networks.pretrained import open_vision
from milvus_coop.offline.training.networks.transformer import LAYER_NORM_EPS, layers_from_public
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.folder import RunFolder, load_network

SPECIAL = ("[PAD]", "[CLS]", "[SEP]")
DEFAULT_WIDTH, DEFAULT_LAYERS, WIDTH_PER_HEAD = 256, 4, 32
_POSITION_OFFSET = {"bert": 0, "visual_bert": 0, "roberta": 2, "xlm-roberta": 2}  # RoBERTa counts from the padding id + 1
_VISUAL_TYPE = 1  # the type that VisualBERT's authors give to all image regions


def is_ours(init: str) -> bool:
    """True if `init` is the folder of a run or of a bundle."""
    return any((Path(init) / part).is_file() for part in ("network.json", "training/network.json"))


def start_network(config: TrainConfig, folder: RunFolder, captions: Iterable[str]) -> OneStream:
    """Make the network and write its tokenizer into the run's folder.

    Args:
        config: the run's configuration.
        folder: the run's folder, where tokenizer.json is written.
        captions: the captions of the training split, for a new tokenizer.

    Raises:
        TrainingError: `init` or `vision` cannot be opened.
    """
    if config.init and is_ours(config.init):
        network, tokenizer = load_network(config.init)
        sizes = asdict(network.config)
        _check_sizes(config, {**sizes, "side": network.config.vision.side, "image_size": network.config.vision.image.size})
        _check_norm(config, "pre" if network.config.norm_first else "deepnorm" if network.config.deepnorm else "post")
        shutil.copyfile(tokenizer, folder.tokenizer)
    else:
        network = _from_text_checkpoint(config, folder) if config.init else _from_nothing(config, folder, captions)
    network.set_filler("mlm" in config.order, mask_id(folder.tokenizer))
    if network.vision is not None:
        network.vision.requires_grad_(bool(config.train_vision))
    return network


def _check_sizes(config: TrainConfig, given: Mapping[str, int]) -> None:
    """Refuse sizes that differ from those of `init`."""
    for name in ("width", "layers", "heads", "dim", "tokens", "side", "image_size"):
        asked = getattr(config, name)
        if asked and asked != given.get(name, asked):
            raise TrainingError(
                f"{name} is {asked}, and that of {config.init} is {given[name]}", expected=f"no {name}: it follows from --init"
            )


def _check_norm(config: TrainConfig, given: str) -> None:
    """Refuse norms that differ from those of `init`, with which the same weights would compute another function."""
    if config.norm not in ("", given):
        raise TrainingError(
            f"norm is {config.norm}, and that of {config.init} is {given}", expected=f"no norm, or {given}: it follows from --init"
        )


def _from_nothing(config: TrainConfig, folder: RunFolder, captions: Iterable[str]) -> OneStream:
    train_tokenizer(captions, folder.tokenizer, vocabulary=config.vocabulary)
    width = config.width or DEFAULT_WIDTH
    heads = config.heads or max(1, width // WIDTH_PER_HEAD)
    if width % heads:
        raise TrainingError(f"width {width} does not divide into {heads} heads", run=f"--heads {max(1, width // WIDTH_PER_HEAD)}")
    vocabulary = special_ids(folder.tokenizer)[0]
    layers = config.layers or DEFAULT_LAYERS
    return _new(config, folder, vocabulary, width, layers, heads, 4 * width, config.max_length, norm=config.norm or "pre")


def _new(
    config: TrainConfig,
    folder: RunFolder,
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    hidden: int,
    max_length: int,
    *,
    norm: str = "post",
    norm_eps: float = LAYER_NORM_EPS,
) -> OneStream:
    vision = open_vision(config.vision, size=config.image_size or None, side=config.side or None)
    _, first, pad = special_ids(folder.tokenizer)
    cells = vision.config.cells
    sizes = NetworkConfig(
        vision=vision.config,
        vocabulary=vocabulary,
        max_length=max_length,
        cls_id=first,
        pad_id=pad,
        tokens=config.tokens or cells,
        token_dim=config.token_dim,
        compress="cells" if config.tokens in (0, cells) else "queries",
        width=width,
        layers=layers,
        heads=heads,
        hidden=hidden,
        dim=config.dim or width,
        dropout=config.dropout,
        norm_first=norm == "pre",
        deepnorm=norm == "deepnorm",
        norm_eps=norm_eps,
        match=config.match,
    )
    return OneStream(sizes, vision)


def _from_text_checkpoint(config: TrainConfig, folder: RunFolder) -> OneStream:
    """A network with words, positions and layers of a BERT, RoBERTa or XLM-RoBERTa checkpoint, as in OSCAR, UNITER and M3P.

    A VisualBERT checkpoint is itself a single-stream model. Its layers and types, which have learnt about images, are kept. Its
    projection of detector features is dropped, since image tokens have a layer of their own.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        text = AutoConfig.from_pretrained(config.init, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(config.init, trust_remote_code=False)
        model = AutoModel.from_pretrained(config.init, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as exc:
        raise TrainingError(
            f"'{config.init}' cannot be opened: {exc}",
            expected="a run, a bundle with training/, or a text checkpoint in safetensors",
        ) from exc
    if text.model_type not in _POSITION_OFFSET:
        raise TrainingError(f"'{config.init}' is a {text.model_type} model", expected=" or ".join(_POSITION_OFFSET))
    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is None:
        raise TrainingError(f"the tokenizer of '{config.init}' is written in Python", expected="one with a tokenizer.json")
    if text.hidden_act != "gelu":
        raise TrainingError(f"the layers of '{config.init}' use {text.hidden_act}", expected="gelu")
    _check_norm(config, "post")
    _check_sizes(config, {"width": text.hidden_size, "heads": text.num_attention_heads})
    fast.save(str(folder.tokenizer))
    offset = _POSITION_OFFSET[text.model_type]
    layers = min(config.layers or text.num_hidden_layers, text.num_hidden_layers)
    max_length = min(config.max_length, text.max_position_embeddings - offset)
    sizes = (text.vocab_size, text.hidden_size, layers, text.num_attention_heads, text.intermediate_size, max_length)
    network = _new(config, folder, *sizes, norm_eps=text.layer_norm_eps)
    network.load_state_dict(_text_state(model.float(), offset, layers, max_length), strict=False)
    return network


def _text_state(model: nn.Module, offset: int, layers: int, max_length: int) -> dict[str, Tensor]:
    source = model.state_dict()
    state = {
        "words.weight": source["embeddings.word_embeddings.weight"],
        "positions.weight": source["embeddings.position_embeddings.weight"][offset : offset + max_length],
        "kinds.weight": torch.stack([source["embeddings.token_type_embeddings.weight"][0], _image_kind(source)]),
        "norm.weight": source["embeddings.LayerNorm.weight"],
        "norm.bias": source["embeddings.LayerNorm.bias"],
    }
    return state | layers_from_public(source, layers)


def _image_kind(source: Mapping[str, Tensor]) -> Tensor:
    """The type vector of image tokens. A text checkpoint has none, so its network starts with that of words."""
    if "embeddings.visual_token_type_embeddings.weight" not in source:
        return source["embeddings.token_type_embeddings.weight"][0]
    place = source["embeddings.visual_position_embeddings.weight"][0]  # of regions that are not aligned to words
    return source["embeddings.visual_token_type_embeddings.weight"][_VISUAL_TYPE] + place


def train_tokenizer(captions: Iterable[str], path: Path, *, vocabulary: int = 8000) -> None:
    """Train lower-cased byte-level BPE (as GPT-2's) on the captions and write tokenizer.json.

    It knows the letters of every language, and the same captions always give the same file. (The library's WordPiece trainer breaks
    ties by the order of a hash map, which differs in every process.)

    Args:
        captions: the training captions.
        path: the file to write.
        vocabulary: maximum number of entries; at least the 256 bytes and the special tokens.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    tokenizer.save(str(path))


def special_ids(path: Path) -> tuple[int, int, int]:
    """The size of the vocabulary, the id of the token that starts a text, and the id of the padding, from a tokenizer.json."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    [first, *_] = tokenizer.encode("a").ids
    pads = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return tokenizer.get_vocab_size(), first, next((pad for pad in pads if pad is not None), 0)


def mask_id(path: Path) -> int | None:
    """The id of the token with which a checkpoint's authors masked words. None if the tokenizer.json has none."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    masks = (tokenizer.token_to_id(token) for token in ("[MASK]", "<mask>"))
    return next((mask for mask in masks if mask is not None), None)
