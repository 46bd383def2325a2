"""`BundleSpec`: the one frozen record of a model's names, shapes and dtypes, and its JSON form `bundle.json`.

Preprocessing, the Milvus schema, the ONNX export and every Triton config read it. No other place states a shape.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from msgspec import Meta

from milvus_coop.errors import BundleInvalidError
from milvus_coop.records import EXPECTED, parse_json, read_record

FORMAT = 1
"""Version of the bundle.json layout."""
MAX_DEPTH = 32
"""Maximum depth of lists and objects inside each other in bundle.json. JSON itself has none, but Python's stack has."""

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
Dtype = Literal["float32", "int8", "int32", "int64", "uint8"]

FINGERPRINT = "[0-9a-f]{32}"
WIRE_FORM = 2
"""The form in which inputs travel to servers (`bundle.wire`), 1 to 7. A change of the form needs another number, so that
clients and servers of different forms do not misunderstand each other."""
MAX_GRAPHS = 16
NAME = r"[^\W_][\w.-]{0,127}"
NAME_RULE = "a name of letters, digits, '.', '_' and '-'"
Name = Annotated[str, Meta(pattern=rf"\A{NAME}\Z", extra={EXPECTED: NAME_RULE})]
"""A name that is safe as the name of a file: without separators, and not hidden."""
Dim = Annotated[int, Meta(ge=1, le=32_768)]
"""Length of an embedding. Milvus has this limit."""
Axis = Annotated[int, Meta(ge=-1, le=2**20)]
Pixels = Annotated[int, Meta(ge=1, le=2**14)]
Level = Annotated[int, Meta(ge=0, le=255)]
Mean = Annotated[float, Meta(ge=-255, le=255)]
Deviation = Annotated[float, Meta(gt=0, le=255)]
TokenCount = Annotated[int, Meta(ge=0, le=2**16)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TextLength = Annotated[int, Meta(ge=1, le=2**16)]
Batch = Annotated[int, Meta(ge=1, le=2**16)]
Bytes = Annotated[int, Meta(ge=0, le=2**50)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z", extra={EXPECTED: "64 hex digits"})]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One graph input or output. `shape` leaves out the batch axis; -1 is a dynamic axis."""

    name: Name
    dtype: Dtype
    shape: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One ONNX graph of the bundle. Every tensor has a leading, dynamic batch axis."""

    name: Name
    file: Name
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: Batch = 64
    """Maximum batch size of one run; larger batches are split."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The preprocessing that turns an image into `pixel_values`.

    If the image encoder's input is uint8, the graph itself subtracts `mean` and divides by `std`. If it is float32, the client
    computes `(pixel / 255 - mean) / std` first.
    """

    size: Pixels
    """Height and width of `pixel_values`."""
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]
    resampling: Literal["bilinear", "bicubic"] = "bicubic"
    fit: Literal["pad", "stretch", "crop", "edge-crop", "edge-corner", "patches"] = "pad"
    """The way to fit an image into the square.

    `pad` adds a letterbox. `stretch` ignores the aspect ratio. `crop` resizes the largest centred square. Three more give the same
    pixels as the image processors of transformers: `edge-crop` resizes the shorter edge to `edge` and then crops the centre;
    `edge-corner` (ViLT) resizes the shorter edge to `edge` and puts the image into the top left corner of the square, with a
    `patch_mask` that marks the patches inside the image; `patches` (SigLIP 2 NaFlex) keeps the aspect ratio, cuts the image into
    patches of `divisor` pixels, as many as the square has room for, and puts them into the square one after the other, with a
    `patch_mask` of two rows that marks as many places as the image has rows of patches, and columns."""
    background: tuple[Level, Level, Level] = (255, 255, 255)
    """Colour of the letterbox and behind transparent images."""
    edge: Annotated[int, Meta(ge=0, le=2**14)] = 0
    """Length of the shorter edge after resizing, in pixels, for `edge-crop` and `edge-corner`."""
    divisor: Pixels = 1
    """For `edge-crop` and `edge-corner`: both edges are rounded down to multiples of this number, and the longer edge is at most
    1333 / 800 of `edge`. With 1, neither rule applies. For `patches`: the edge of a patch."""
    full_decode: bool = False
    """Decode large JPEGs at full size, as other programs do. If False, they are decoded at a fraction of their size, which is
    several times faster."""

    def __post_init__(self) -> None:
        """Make whole numbers floats, as they are when bundle.json is read again, so that the fingerprint is the same."""
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "std", tuple(map(float, self.std)))

    @property
    def mask_shape(self) -> tuple[int, int] | None:
        """The shape of an image's `patch_mask`. None if this way to fit an image has none."""
        side = self.size // self.divisor
        return {"edge-corner": (side, side), "patches": (2, side * side)}.get(self.fit)


@dataclass(frozen=True, slots=True)
class TextSpec:
    """The preprocessing that turns a text into `input_ids`."""

    max_length: TextLength
    """Maximum number of tokens, special tokens included; longer texts are cut."""
    pad_id: TokenId = 0
    pad_to_max: bool = False
    """Pad every text to `max_length`, as SigLIP was trained. If False, texts are padded to the next multiple of 8."""


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """The image tokens that the cross-encoder reads, and where they are kept: int8 values with one float16 scale per token."""

    count: TokenCount
    dim: TokenCount
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

    n_bytes: Bytes
    sha256: Sha256


@dataclass(frozen=True)
class BundleSpec:
    """Everything that a program needs to know about a bundle without opening a graph."""

    name: Name
    version: Annotated[str, Meta(min_length=1, max_length=128)]
    kind: Literal["joint", "separate"]
    dim: Dim
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
    files: Mapping[Name, FileSpec] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`name version`, for people."""
        return f"{self.name} {self.version}"

    @property
    def model_name(self) -> str:
        """The name of the bundle in rerank protocols: `name@` and the first 8 digits of the fingerprint."""
        return f"{self.name}@{self.fingerprint[:8]}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that changes a model's outputs, 32 hex digits. Licence, lineage and metrics do not count."""
        parts = _content(self)
        for key in ("licence", "lineage", "metrics"):
            del parts[key]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def served_version(self) -> int:
        """The version of this bundle's models on a server: in hexadecimal digits, `WIRE_FORM` and 15 digits of the fingerprint.

        Triton's versions are positive numbers of 64 bits. A request for a version is never answered by a model of another one.
        """
        return int(f"{WIRE_FORM}{self.fingerprint[:15]}", 16)

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
    def from_json(cls, text: str | bytes, source: str = "bundle.json") -> BundleSpec:
        """Read the text of a bundle.json.

        Raises:
            BundleInvalidError: the text is not JSON, has another format, or a field has a wrong value. The message calls the text
                `source` and names the field.
        """
        content = parse_json(text, source, BundleInvalidError)
        if _is_deep(content):
            raise BundleInvalidError(f"{source} has too many lists or objects inside each other", expected=f"at most {MAX_DEPTH}")
        if not isinstance(content, dict) or "format" not in content:
            raise BundleInvalidError(f"{source} is not a bundle record", expected=f"a JSON object with the format {FORMAT}")
        if (version := content.pop("format")) != FORMAT:
            raise BundleInvalidError(f"{source} has format {version}", expected=f"format {FORMAT}", run=_LATER_VERSION)
        fingerprint = content.pop("fingerprint", None)
        spec = read_record(cls, content, BundleInvalidError, source, run=f"{_LATER_VERSION}, if a later version wrote it")
        for given, expected in _contradictions(spec):
            raise BundleInvalidError(f"{source}: {given}", expected=expected)
        if fingerprint != spec.fingerprint:
            raise BundleInvalidError(f"{source} was edited by hand: its fingerprint does not fit its content")
        return spec


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [
            part for one in level for part in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
    return bool(level)


_LATER_VERSION = "pip install -U milvus-coop"
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


def _contradictions(spec: BundleSpec) -> Iterator[tuple[str, str]]:
    """Fields that do not fit each other: what was given, and what is expected."""
    tokens, names = spec.tokens, [graph.name for graph in spec.graphs]
    kept = tokens.keep in ("collection", "store")
    for name, number in (("count", tokens.count), ("dim", tokens.dim)):
        if (number > 0) != kept:
            yield f"tokens.{name} is {number} and tokens.keep is '{tokens.keep}'", "at least 1" if kept else "0, as none are kept"
    if tokens.keep == "collection" and tokens.n_bytes > COLLECTION_TOKEN_BYTES:
        size = f"tokens.count is {tokens.count} and tokens.dim {tokens.dim}: {tokens.n_bytes:,} bytes per image"
        yield size, f"at most {COLLECTION_TOKEN_BYTES:,} in a collection"
    if len(names) > MAX_GRAPHS:
        yield f"there are {len(names):,} graphs", f"at most {MAX_GRAPHS}"
    for number, name in enumerate(names):
        if name in names[:number]:
            yield f"graphs[{number}].name is '{name}' a second time", "a graph of each name"
    for graph in spec.graphs:
        for tensor in (*graph.inputs, *graph.outputs):
            if 0 in tensor.shape:
                yield f"the shape of '{tensor.name}' in graph '{graph.name}' has a 0", "-1 for a dynamic axis, or at least 1"
    for part, image in (("image", spec.image), ("ce_image", spec.ce_image)):
        if image is not None and image.fit in ("edge-crop", "edge-corner") and not image.edge:
            yield f"{part}.edge is 0 and {part}.fit is '{image.fit}'", "the length of the shorter edge"
        if image is not None and image.fit == "patches" and image.size % image.divisor:
            yield f"{part}.size is {image.size} and {part}.divisor {image.divisor}", "a size in whole patches"
