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

PIXELS = "pixel_values"
PATCH_MASK = "patch_mask"
CE_PREFIX = "ce_"
"""In front of an input's name where the cross-encoder sees pictures or texts in another way than the bi-encoder does."""

IMAGE_TOKENS = "image_tokens"
IMAGE_TOKEN_SCALES = "image_token_scales"  # noqa: S105 - not a password
IMAGE_SIDE = (IMAGE_TOKENS, IMAGE_TOKEN_SCALES, CE_PREFIX + PIXELS, CE_PREFIX + PATCH_MASK)
"""Inputs of a cross-encoder that depend on the image alone."""

MATCH_PROBABILITY = "match_probability"
MATCH_LOGIT = "match_logit"
"""What the model's authors add the cosine to; see `BundleSpec.score`. Not every cross-encoder has it as an output."""

COLLECTION_TOKEN_BYTES = 49_000
"""Most bytes of one image's tokens in a collection: their base64 must fit a VARCHAR of Milvus, 65,535 bytes."""

Keep = Literal["collection", "store", "image"]
Score = Literal["ce", "sum"]


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
    """Height and width of `pixel_values`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resampling: Literal["bilinear", "bicubic"] = "bicubic"
    fit: Literal["pad", "stretch", "crop", "edge-crop", "edge-corner"] = "pad"
    """`pad`: letterbox; `stretch`: ignore the aspect ratio; `crop`: the largest centred square, to size. As transformers' image
    processors have it, to the pixel: `edge-crop`: shorter edge to `edge`, then a centre crop; `edge-corner` (ViLT): shorter edge to
    `edge`, into the top left corner of the square, with a `patch_mask` of the patches that lie in the picture."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Colour behind transparent pictures and of the letterbox."""
    edge: int = 0
    """Pixels of the shorter edge after resizing, for `edge-crop` and `edge-corner`."""
    divisor: int = 1
    """For these two: edges are rounded down to multiples of it, and the longer one is at most 1333 / 800 of `edge`. 1: neither."""
    full_decode: bool = False
    """Decode large JPEGs in full, as other programs do. Otherwise at a fraction of their size, which is several times faster."""


@dataclass(frozen=True, slots=True)
class TextSpec:
    """How a text becomes `input_ids`."""

    max_length: int
    """In tokens, special tokens included; longer texts are cut."""
    pad_id: int = 0
    pad_to_max: bool = False
    """Pad every text to `max_length` (SigLIP was trained so), not to the next multiple of 8."""


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """What the cross-encoder reads of an image, and where that is kept: int8 values with one float16 scale per token."""

    count: int
    dim: int
    keep: Keep = "collection"
    """`collection`: base64 in a VARCHAR beside the embedding; `store`: a file per image in a token store; `image`: nothing is kept,
    the picture is opened again for every query (count and dim are 0)."""

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
    ce_image: ImageSpec | None = None
    """How pictures become the inputs `ce_...` for the cross-encoder's own vision tower; None: it sees what the bi-encoder sees."""
    ce_text: TextSpec | None = None
    """How texts become the inputs `ce_...` of the cross-encoder, with ce_tokenizer.json; None: as for the bi-encoder."""
    score: Score = "ce"
    """How its authors rank: by the cross-encoder alone, or by the sum of `match_logit` and the bi-encoder's cosine."""
    licence: str = ""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileSpec] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`name version`, for people."""
        return f"{self.name} {self.version}"

    @property
    def model_name(self) -> str:
        """`name@` and the first 8 digits of the fingerprint: what rerank protocols call the bundle."""
        return f"{self.name}@{self.fingerprint[:8]}"

    @property
    def fingerprint(self) -> str:
        """32 hex digits over everything that changes a model's outputs (not over licence, lineage or metrics)."""
        parts = _content(self)
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
        return tuple(t.name for t in self.graph(CROSS_ENCODER).inputs if t.name not in IMAGE_SIDE)

    def image_of(self, tensor: str) -> ImageSpec:
        """How pictures become the input of that name: `pixel_values`, `ce_pixel_values`, ..."""
        return self.ce_image or self.image if tensor.startswith(CE_PREFIX) else self.image

    def text_of(self, tensor: str) -> TextSpec:
        """How texts become the input of that name: `input_ids`, `ce_input_ids`, ..."""
        return self.ce_text or self.text if tensor.startswith(CE_PREFIX) else self.text

    @property
    def largest_image(self) -> int:
        """Pixels to which every edge of a picture may be shrunk without loss for any input; 0: it must not be shrunk."""
        images = [self.image, self.ce_image or self.image]
        return 0 if any(image.full_decode for image in images) else max(image.size for image in images)

    def to_json(self) -> str:
        """The text of bundle.json."""
        content = {"format": FORMAT, "fingerprint": self.fingerprint, **_content(self)}
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


_LATER: Mapping[str, tuple[str, ...]] = {
    "": ("ce_image", "ce_text", "score"),
    "image": ("edge", "divisor", "full_decode"),
    "ce_image": ("edge", "divisor", "full_decode"),
    "text": ("pad_to_max",),
    "ce_text": ("pad_to_max",),
    "tokens": ("keep",),
}
"""Fields that the first bundles did not have. At their defaults they are left out of bundle.json and of the fingerprint, so that
those bundles, and the collections made with them, stay what they were."""


def _content(spec: BundleSpec) -> dict[str, Any]:
    content = dataclasses.asdict(spec)
    for part, names in _LATER.items():
        record = getattr(spec, part) if part else spec
        if record is None:
            continue
        defaults = {f.name: f.default for f in dataclasses.fields(record)}
        for name in names:
            if getattr(record, name) == defaults[name]:
                del (content[part] if part else content)[name]
    return content


def _image_of(content: Mapping[str, Any]) -> ImageSpec:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return ImageSpec(**values)


def _spec_of(content: Mapping[str, Any]) -> BundleSpec:
    ce_image, ce_text = content.get("ce_image"), content.get("ce_text")
    return BundleSpec(
        name=str(content["name"]),
        version=str(content["version"]),
        kind=content["kind"],
        dim=int(content["dim"]),
        image=_image_of(content["image"]),
        text=TextSpec(**content["text"]),
        tokens=TokenSpec(**content["tokens"]),
        graphs=tuple(_graph_of(g) for g in content["graphs"]),
        ce_image=None if ce_image is None else _image_of(ce_image),
        ce_text=None if ce_text is None else TextSpec(**ce_text),
        score=content.get("score", "ce"),
        licence=content.get("licence", ""),
        lineage=content.get("lineage", {}),
        metrics=content.get("metrics", {}),
        files={name: FileSpec(**entry) for name, entry in content["files"].items()},
    )


def _graph_of(content: Mapping[str, Any]) -> GraphSpec:
    def tensors(key: str) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in content[key])

    return GraphSpec(content["name"], content["file"], tensors("inputs"), tensors("outputs"), content["max_batch"])
