"""Checkpoints with the settings of published ones: small, with random weights.

Each JSON file records the settings of one checkpoint, where they were found, and what was not found. Widths, depths and vocabulary
are made small; every other field is as published, and so are the files in which it is.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from tests.convert.checkpoints import randomise
from tests.convert.kit import bert_tokenizer, clip_tokenizer, roberta_tokenizer, siglip2_tokenizer, siglip_tokenizer, xlmr_tokenizer

RECORDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(__file__).parent.glob("*.json"))
}
"""The records, by name."""

_FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json")
_PARTS = ("text_config", "vision_config", "qformer_config")
_SHARE = 8
"""Widths are this much smaller, so that towers of different widths stay different."""
_WIDTHS = (
    *("hidden_size", "intermediate_size", "encoder_hidden_size", "image_text_hidden_size"),
    *("projection_dim", "project_dim", "projection_size", "contrastive_hidden_size"),
)
_COUNTS = {"num_attention_heads": 4, "num_hidden_layers": 2}


def make(folder: Path, record: dict[str, Any]) -> Path:
    """Write a checkpoint with the settings of the record."""
    tokenizer = _tokenizer(folder, record["tokenizer"])
    kind: type[PreTrainedModel] = getattr(transformers, record["class"])
    config = _small(record["config.json"], kind.config_class, len(tokenizer))
    model = kind(kind.config_class.from_dict(copy.deepcopy(config)))  # type: ignore[union-attr]
    randomise(model)
    model.save_pretrained(folder)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
        if name in record:
            content = config if name == "config.json" else record[name]
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _tokenizer(folder: Path, kind: str) -> Any:
    if kind == "vocab.txt":
        tokenizer = bert_tokenizer(folder)
        words = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        (folder / "vocab.txt").write_text("\n".join(word for word, _ in words), encoding="utf-8")
        (folder / "tokenizer.json").unlink()
        return tokenizer
    if kind == "gemma":
        return siglip2_tokenizer(folder, transformers.GemmaTokenizer)
    makers: dict[str, Any] = {
        "bert": bert_tokenizer,
        "clip": clip_tokenizer,
        "roberta": roberta_tokenizer,
        "siglip": siglip_tokenizer,
        "xlmr": xlmr_tokenizer,
    }
    return makers[kind](folder)


def _small(published: dict[str, Any], kind: Any, vocabulary: int) -> dict[str, Any]:
    """The published config.json with small numbers. It states those that it leaves to the class."""
    whole = kind.from_dict(copy.deepcopy(published))
    small = copy.deepcopy(published) | _sizes(whole, vocabulary)
    for part in _PARTS:
        if part in published:
            sizes = _sizes(getattr(whole, part), vocabulary)
            small[part] |= sizes
            if small.get(f"{part}_dict"):  # transformers lets it override the other
                small[f"{part}_dict"] |= sizes
    return small


def _sizes(config: Any, vocabulary: int) -> dict[str, Any]:
    """Small sizes for those that a configuration has."""
    found = {name: value // _SHARE for name in _WIDTHS if isinstance(value := getattr(config, name, None), int)}
    found |= {name: count for name, count in _COUNTS.items() if isinstance(getattr(config, name, None), int)}
    return found | ({"vocab_size": vocabulary} if hasattr(config, "vocab_size") else {})
