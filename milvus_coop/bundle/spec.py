"""`BundleSpec`: the one frozen record of a model's names, shapes and dtypes, and its JSON form `bundle.json`.

Preprocessing, the Milvus schema, the ONNX export and every Triton config read it; nothing else states a shape.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from milvus_coop.errors import BundleInvalidError

FORMAT = 1
"""Version of the bundle.json layout."""

TEXT_ENCODER = "text_encoder"
IMAGE_ENCODER = "image_encoder"
CROSS_ENCODER = "cross_encoder"
GRAPHS = (TEXT_ENCODER, IMAGE_ENCODER, CROSS_ENCODER)

IMAGE_TOKENS = "image_tokens"
IMAGE_TOKEN_SCALES = "image_token_scales"  # noqa: S105 - not a password


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One graph input or output. `shape` leaves out the batch axis; -1 is a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One ONNX graph of the bundle. Every tensor has a leading, dynamic batch axis."""

    name: str
    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int = 64
    """Largest batch that callers send in one run; larger ones are split."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How a picture becomes `pixel_values`.

    If the image encoder's input is uint8, the graph subtracts `mean` and divides by `std` itself; if it is float32, the client
    computes `(pixel / 255 - mean) / std` before.
    """

    size: int
    """Height and width in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resampling: Literal["bilinear", "bicubic"] = "bicubic"
    fit: Literal["pad", "stretch", "crop"] = "pad"
    """`pad`: letterbox; `stretch`: ignore the aspect ratio; `crop`: shorter edge to size, centre crop."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Colour behind transparent pictures and of the letterbox."""


@dataclass(frozen=True, slots=True)
class TextSpec:
    """How a text becomes `input_ids`."""

    max_length: int
    """In tokens, special tokens included; longer texts are cut."""
    pad_id: int = 0


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """How image tokens are stored: int8 values with one float16 scale per token."""

    count: int
    dim: int

    @property
    def n_bytes(self) -> int:
        """Bytes of one image's tokens before base64."""
        return self.count * (self.dim + 2)


@dataclass(frozen=True, slots=True)
class FileSpec:
    """Size and content hash of one file of the bundle."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """Everything a program needs to know of a bundle without opening a graph."""

    name: str
    version: str
    kind: Literal["joint", "separate"]
    dim: int
    """Length of an embedding."""
    image: ImageSpec
    text: TextSpec
    tokens: TokenSpec
    graphs: tuple[GraphSpec, ...]
    licence: str = ""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileSpec] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`name version`, for people."""
        return f"{self.name} {self.version}"

    @property
    def fingerprint(self) -> str:
        """32 hex digits over everything that changes a model's outputs (not over licence, lineage or metrics)."""
        parts = dataclasses.asdict(self)
        for key in ("licence", "lineage", "metrics"):
            del parts[key]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def graph(self, name: str) -> GraphSpec:
        """The graph of that name.

        Raises:
            BundleInvalidError: if the bundle has no such graph.
        """
        for graph in self.graphs:
            if graph.name == name:
                return graph
        raise BundleInvalidError(
            f"bundle {self.label} has no graph '{name}'", expected=f"one of {', '.join(g.name for g in self.graphs)}"
        )

    @property
    def text_side(self) -> tuple[str, ...]:
        """Names of the cross-encoder's inputs that depend on the text alone."""
        image_side = {IMAGE_TOKENS, IMAGE_TOKEN_SCALES}
        return tuple(t.name for t in self.graph(CROSS_ENCODER).inputs if t.name not in image_side)

    def to_json(self) -> str:
        """The text of bundle.json."""
        content = {"format": FORMAT, "fingerprint": self.fingerprint, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "bundle.json") -> BundleSpec:
        """Read the text of a bundle.json.

        Raises:
            BundleInvalidError: if it is not JSON, of another format, or lacks a field. `source` names it in the message.
        """
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise BundleInvalidError(
                    f"{source} has format {content['format']}", expected=f"format {FORMAT}", run="pip install -U milvus-coop"
                )
            spec = _spec_of(content)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            if isinstance(exc, BundleInvalidError):
                raise
            raise BundleInvalidError(f"{source} is not a valid bundle record: {exc!r}") from exc
        if content.get("fingerprint") != spec.fingerprint:
            raise BundleInvalidError(f"{source} was edited by hand: its fingerprint does not fit its content")
        return spec


def _spec_of(content: Mapping[str, Any]) -> BundleSpec:
    image = dict(content["image"])
    for key in ("mean", "std", "background"):
        image[key] = tuple(image[key])
    return BundleSpec(
        name=str(content["name"]),
        version=str(content["version"]),
        kind=content["kind"],
        dim=int(content["dim"]),
        image=ImageSpec(**image),
        text=TextSpec(**content["text"]),
        tokens=TokenSpec(**content["tokens"]),
        graphs=tuple(_graph_of(g) for g in content["graphs"]),
        licence=content.get("licence", ""),
        lineage=content.get("lineage", {}),
        metrics=content.get("metrics", {}),
        files={name: FileSpec(**entry) for name, entry in content["files"].items()},
    )


def _graph_of(content: Mapping[str, Any]) -> GraphSpec:
    def tensors(key: str) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in content[key])

    return GraphSpec(content["name"], content["file"], tensors("inputs"), tensors("outputs"), content["max_batch"])
