"""`BundleSpec`: the one frozen record of a model's names, shapes and dtypes, and its JSON form `bundle.json`.

Preprocessing, the Milvus schema, the ONNX export and every Triton config read it. No other place states a shape.
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
"""Prefix of an input's name if the cross-encoder preprocesses images or texts differently from the bi-encoder."""

IMAGE_TOKENS = "image_tokens"
IMAGE_TOKEN_SCALES = "image_token_scales"  # noqa: S105 - not a password
IMAGE_SIDE = (IMAGE_TOKENS, IMAGE_TOKEN_SCALES, CE_PREFIX + PIXELS, CE_PREFIX + PATCH_MASK)
"""Inputs of a cross-encoder that depend on the image alone."""

MATCH_PROBABILITY = "match_probability"
MATCH_LOGIT = "match_logit"
"""The output to which the score `sum` adds the cosine; see `BundleSpec.score`. Not every cross-encoder has this output."""

COLLECTION_TOKEN_BYTES = 49_000
"""Maximum size of one image's tokens in a collection, in bytes: as base64 they must fit a Milvus VARCHAR of 65,535 bytes."""

Keep = Literal["collection", "store", "nowhere"]
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
    """Maximum batch size of one run; larger batches are split."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The preprocessing that turns an image into `pixel_values`.

    If the image encoder's input is uint8, the graph itself subtracts `mean` and divides by `std`. If it is float32, the client
    computes `(pixel / 255 - mean) / std` first.
    """

    size: int
    """Height and width of `pixel_values`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resampling: Literal["bilinear", "bicubic"] = "bicubic"
    fit: Literal["pad", "stretch", "crop", "edge-crop", "edge-corner"] = "pad"
    """The way to fit an image into the square.

    `pad` adds a letterbox. `stretch` ignores the aspect ratio. `crop` resizes the largest centred square. Two more give the same
    pixels as the image processors of transformers: `edge-crop` resizes the shorter edge to `edge` and then crops the centre;
    `edge-corner` (ViLT) resizes the shorter edge to `edge` and puts the image into the top left corner of the square, with a
    `patch_mask` that marks the patches inside the image."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Colour of the letterbox and behind transparent images."""
    edge: int = 0
    """Length of the shorter edge after resizing, in pixels, for `edge-crop` and `edge-corner`."""
    divisor: int = 1
    """For `edge-crop` and `edge-corner`: both edges are rounded down to multiples of this number, and the longer edge is at most
    1333 / 800 of `edge`. With 1, neither rule applies."""
    full_decode: bool = False
    """Decode large JPEGs at full size, as other programs do. If False, they are decoded at a fraction of their size, which is
    several times faster."""


@dataclass(frozen=True, slots=True)
class TextSpec:
    """The preprocessing that turns a text into `input_ids`."""

    max_length: int
    """Maximum number of tokens, special tokens included; longer texts are cut."""
    pad_id: int = 0
    pad_to_max: bool = False
    """Pad every text to `max_length`, as SigLIP was trained. If False, texts are padded to the next multiple of 8."""


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """The image tokens that the cross-encoder reads, and where they are kept: int8 values with one float16 scale per token."""

    count: int
    dim: int
    keep: Keep = "collection"
    """The place where tokens are kept. `collection`: as base64 in a VARCHAR beside the embedding. `store`: in one file per image in
    a token store. `nowhere`: the image is opened again for every query (`count` and `dim` are 0)."""

    @property
    def n_bytes(self) -> int:
        """Size of one image's tokens in bytes, before base64."""
        return self.count * (self.dim + 2)


@dataclass(frozen=True, slots=True)
class FileSpec:
    """Size and content hash of one file of the bundle."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """Everything that a program needs to know about a bundle without opening a graph."""

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
    """Preprocessing of images for the inputs `ce_...` of the cross-encoder's own vision tower. None if it is the same as for the
    bi-encoder."""
    ce_text: TextSpec | None = None
    """Preprocessing of texts for the inputs `ce_...` of the cross-encoder, with ce_tokenizer.json. None if it is the same as for
    the bi-encoder."""
    score: Score = "ce"
    """The score by which the model's authors rank: `ce` is the cross-encoder's match probability alone; `sum` is `match_logit` plus
    the bi-encoder's cosine."""
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
        """The name of the bundle in rerank protocols: `name@` and the first 8 digits of the fingerprint."""
        return f"{self.name}@{self.fingerprint[:8]}"

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes a model's outputs, 32 hex digits. Licence, lineage and metrics do not count."""
        parts = _content(self)
        for key in ("licence", "lineage", "metrics"):
            del parts[key]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def graph(self, name: str) -> GraphSpec:
        """The graph of that name.

        Raises:
            BundleInvalidError: the bundle has no such graph.
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
        """Preprocessing of images for the input of that name: `pixel_values`, `ce_pixel_values`, ..."""
        return self.ce_image or self.image if tensor.startswith(CE_PREFIX) else self.image

    def text_of(self, tensor: str) -> TextSpec:
        """Preprocessing of texts for the input of that name: `input_ids`, `ce_input_ids`, ..."""
        return self.ce_text or self.text if tensor.startswith(CE_PREFIX) else self.text

    @property
    def largest_image(self) -> int:
        """Edge length in pixels to which an image may be shrunk without loss for any input; 0 if it must not be shrunk."""
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
            BundleInvalidError: the text is not JSON, has another format, or lacks a field. The message calls it `source`.
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
"""Fields that the first bundles did not have. Fields with their default value are left out of bundle.json and of the fingerprint.
So the first bundles keep their fingerprints, and the collections made with them stay valid."""


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
