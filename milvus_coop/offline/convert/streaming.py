"""Models whose large weights stay in their safetensors until a layer runs, or until they are written into a bundle.

So a model that fills the memory can be converted: its weights are never in memory all at once. In the meantime, each large weight
is a mark, a matrix of its shape that takes the memory of one column. An exporter may rename or transpose a mark; `find_stored`
still tells which weight it stands for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from milvus_coop.errors import ConvertError
from milvus_coop.types import Array

Model = TypeVar("Model", bound=PreTrainedModel)

SMALL = 2**10
"""Weights of fewer values are in memory all the time."""
_STEP = 0.25
_CODES = itertools.count(2**20)  # numbers that no weight has; with a quarter added, float32 still holds them exactly
_TRANSPOSED = ".T"


@dataclass(frozen=True)
class Stored:
    """A weight in a safetensors file."""

    file: Path
    key: str
    shape: tuple[int, ...]
    code: int

    def read(self) -> Tensor:
        """The weight, float32."""
        with safe_open(self.file, "pt") as tensors:
            value: Tensor = tensors.get_tensor(self.key).float()
        return value

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Some rows of a matrix, float32."""
        with safe_open(self.file, "pt") as tensors:
            table = tensors.get_slice(self.key)
            return torch.stack([table[number : number + 1][0].float() for number in numbers])

    def mark(self) -> nn.Parameter:
        """A matrix that stands for the weight: its code in the first row, and a little more in all others."""
        column = torch.full((self.shape[0], 1), self.code + _STEP)
        column[0] = self.code
        mark = nn.Parameter(column.expand(self.shape), requires_grad=False)
        mark.stored = self  # type: ignore[attr-defined]
        _STORED[self.code] = self
        return mark


_STORED: WeakValueDictionary[int, Stored] = WeakValueDictionary()
"""The weights of the models that are open, by code."""


def open_streamed(checkpoint: str, folder: Path, kind: type[Model], config: Any, slim: Any) -> Model:
    """A model in eval mode whose large weights are read when a layer runs.

    Args:
        checkpoint: the name of the checkpoint, for messages.
        folder: the folder with its safetensors.
        kind: the class of the model.
        config: its configuration.
        slim: the same configuration with few layers. Its model gives the buffers, which no checkpoint has.

    Raises:
        ConvertError: the files are broken, or lack weights.
    """
    files = dict(_keys(checkpoint, folder))
    with torch.device("meta"):
        model: Any = kind(config)
    buffers = dict(kind(slim).named_buffers())
    lacking = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name in list(module._buffers):
            module._buffers[name] = buffers[prefix + name]
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            found = _find(files, prefix + name, model)
            if found is None or found[1] != tuple(parameter.shape):
                lacking.append(prefix + name)
                continue
            stored = Stored(*found[0], found[1], next(_CODES))
            small = parameter.numel() < SMALL or parameter.ndim != 2
            module._parameters[name] = nn.Parameter(stored.read(), requires_grad=False) if small else stored.mark()
        if any(hasattr(parameter, "stored") for parameter in module._parameters.values()):
            _read_when_run(module)
    if lacking:
        raise ConvertError(
            f"{checkpoint} lacks {len(lacking)} weights of a {kind.__name__}, such as {lacking[0]}",
            expected="a checkpoint that was trained for retrieval",
        )
    opened: Model = model.eval()
    return opened


def _keys(checkpoint: str, folder: Path) -> Iterator[tuple[str, tuple[Path, tuple[int, ...]]]]:
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - no mapping
                    yield key, (file, tuple(tensors.get_slice(key).get_shape()))
        except Exception as exc:  # safetensors has errors of its own
            raise ConvertError(f"{checkpoint} cannot be loaded: {file.name}: {exc}") from exc


def _find(files: dict[str, tuple[Path, tuple[int, ...]]], name: str, model: Any) -> tuple[tuple[Path, str], tuple[int, ...]] | None:
    """The place of a weight. A model without a head leaves out the prefix of its class; a tied head is the table of words."""
    names = [name, f"{model.base_model_prefix}.{name}"]
    if name == "lm_head.weight" and model.config.tie_word_embeddings:
        names += [key for key in files if key.endswith("embed_tokens.weight")]
    key = next((key for key in names if key in files), None)
    return None if key is None else ((files[key][0], key), files[key][1])


def _read_when_run(module: nn.Module) -> None:
    marks: dict[str, Any] = {name: mark for name, mark in module._parameters.items() if hasattr(mark, "stored")}

    def fill(_module: nn.Module, _inputs: Any) -> None:
        if not torch.compiler.is_compiling():
            module._parameters.update({name: nn.Parameter(mark.stored.read(), requires_grad=False) for name, mark in marks.items()})

    def empty(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        module._parameters.update(marks)

    module.register_forward_pre_hook(fill)
    module.register_forward_hook(empty, always_call=True)


def rows_of(parameter: Tensor, numbers: Sequence[int]) -> Tensor:
    """Some rows of a weight, which may be a mark: (numbers, width)."""
    stored: Stored | None = getattr(parameter, "stored", None)
    if stored is None or not numbers:
        return parameter.detach()[list(numbers)]
    return stored.rows(numbers)


def value_of(parameter: Tensor) -> Tensor:
    """A weight, which may be a mark."""
    stored: Stored | None = getattr(parameter, "stored", None)
    return parameter.detach() if stored is None else stored.read()


def find_stored(values: Array) -> str | None:
    """The name of the stored weight that a constant of an exported graph stands for. None if it stands for itself."""
    if values.ndim != 2 or values.dtype != np.float32 or min(values.shape) < 2:
        return None
    corner, right, below = (float(values[place]) for place in ((0, 0), (0, 1), (1, 0)))
    stored = _STORED.get(int(corner)) if corner.is_integer() else None
    if stored is None or {right, below} != {corner, corner + _STEP}:
        return None
    return f"{stored.code}" if right == corner else f"{stored.code}{_TRANSPOSED}"


def read_stored(name: str) -> Array:
    """The weight of that name, as `find_stored` gave it."""
    values: Array = _STORED[int(name.removesuffix(_TRANSPOSED))].read().numpy()
    return values.T if name.endswith(_TRANSPOSED) else values
