"""The settings of a run in one flat record. The module does not import PyTorch, so that the command line can read the defaults."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.offline.training.run.order import ORDERS, TASKS, Objective

Precision = Literal["auto", "no", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
NORMS = ("", "post", "pre", "deepnorm")
_LEAST: Mapping[str, float] = {
    **dict.fromkeys(("rounds", "accumulate", "token_dim", "vocabulary", "eval_every", "k", "mined", "mine_every"), 1),
    **dict.fromkeys(("batch", "dev_items"), 2),  # a single pair has no other pair to compare with
    **dict.fromkeys(
        ("width", "layers", "heads", "dim", "tokens", "side", "image_size", "threads", "patience", "warm_up", "seed"), 0
    ),
    "dev_queries": 0,
    **dict.fromkeys(("weight_decay", "margin", "dropout", "hard_share"), 0),
    "max_length": 3,
}
_MOST: Mapping[str, float] = {"hard_share": 1}
_ABOVE_ZERO = ("learning_rate", "clip")


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of a run. Sizes that are 0 follow from `init` and `vision`, or get the defaults of `start`."""

    objective: Objective
    data: str
    """The data set, in the form that `open_dataset` takes."""
    order: tuple[str, ...] = ()
    """The tasks of a round; see `order`."""
    rounds: int = 1000
    batch: int = 64
    """Number of images per task and process."""
    accumulate: int = 1
    """Number of batches per optimiser step. In-batch negatives still come from one batch."""
    learning_rate: float = 3e-4
    warm_up: int = 100
    """Number of rounds in which the learning rate rises. Afterwards it falls along a cosine to zero."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Maximum norm of the gradient."""
    margin: float = 0.1
    """Margin of the triplet losses."""
    keep_groups: bool = False
    """If true, look-alikes (`CaptionedImage.group`) are in the same batch."""
    mined: int = 50
    """Length of the lists of mined negatives: the bi-encoder's best wrong answers."""
    mine_every: int = 100
    """Minimum number of rounds for which such lists are used. They are made again for the first pass over the data that begins
    after so many rounds. To make them, every caption and image of the training set goes through the network. On a small set that
    costs as much as 20 rounds."""
    hard_share: float = 0.5
    """Share of mined negatives among those that `ce-top` and `ce-list` draw. The others are random. Geigle et al.'s code has 0.05.
    With a share of 1, a cross-encoder that starts from random weights never gets better than chance."""
    init: str = ""
    """A run or bundle to start from, or a text checkpoint of transformers. '' for random weights."""
    vision: str = "conv"
    """The vision backbone; see `networks.pretrained.open_vision`."""
    train_vision: bool | None = None
    """If False, the backbone is frozen and its features are cached. If None, only an untrained backbone is trained."""
    miner: str = ""
    """For `ce`: the run whose bi-encoder finds the hard negatives, and the candidates for the dev score."""
    side: int = 0
    """Number of cells per side of the feature grid."""
    image_size: int = 0
    tokens: int = 0
    """Number of image tokens. 0 for one per cell."""
    token_dim: int = 64
    width: int = 0
    layers: int = 0
    heads: int = 0
    dim: int = 0
    dropout: float = 0.1
    match: Literal["cls", "residual"] = "cls"
    """See `NetworkConfig.match`. A network that a run starts from keeps its own value."""
    norm: Literal["", "post", "pre", "deepnorm"] = ""
    """The place of the norms in the transformer's layers; see `networks.transformer.Layer`. '' means post for a network that starts
    from a text checkpoint, as in BERT, pre for one that starts from random weights, and otherwise the norm of `init`."""
    max_length: int = 32
    vocabulary: int = 8000
    """Maximum vocabulary of a tokenizer that is trained here."""
    eval_every: int = 200
    """Number of rounds between evaluations. Each evaluation writes a checkpoint."""
    patience: int = 0
    """Number of evaluations without a better dev score after which the run stops. 0 for never."""
    dev_items: int = 1000
    """Number of images of the dev pool that are used."""
    k: int = 20
    """Number of candidates that the cross-encoder reranks for the dev score."""
    dev_queries: int = 250
    """Number of queries per direction that are reranked for the dev score, spread evenly over the dev pool. 0 for all. With all
    5,000 captions and 1,000 images of Flickr8k's dev split this is 120,000 pairs, more work than 200 rounds of training."""
    seed: int = 0
    threads: int = 0
    """Number of PyTorch's threads. 0 for PyTorch's own choice."""
    precision: Precision = "auto"
    """Mixed precision. `auto` is bf16 if the hardware multiplies bfloat16, else `no` (float32). The run records the choice."""
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Fill in the order, and refuse invalid values."""
        if self.train_vision is None:
            object.__setattr__(self, "train_vision", self.vision == "conv" and not self.init)
        if not self.order:
            object.__setattr__(self, "order", ORDERS[self.objective])
        if unknown := [name for name in self.order if name not in TASKS]:
            raise InvalidArgumentError(f"the order names the task '{unknown[0]}'", expected=", ".join(TASKS))
        self._check_numbers()
        if self.precision not in PRECISIONS:
            raise InvalidArgumentError(f"precision is {self.precision}", expected=" or ".join(PRECISIONS))
        if self.norm not in NORMS:
            raise InvalidArgumentError(f"norm is {self.norm}", expected=" or ".join(NORMS[1:]))
        if self.objective != "ce" and self.miner:
            raise InvalidArgumentError(
                f"a miner for a {self.objective} run, which has a bi-encoder of its own", expected="a miner for a ce alone"
            )
        if self.objective != "joint" and (wrong := [name for name in self.order if TASKS[name].role != self.objective]):
            raise InvalidArgumentError(
                f"the order of a {self.objective} run has the task '{wrong[0]}'",
                expected=f"tasks of the {self.objective} alone",
                run="milvus-coop train joint",
            )
        if self.objective == "be" and "distil" in self.order:
            raise InvalidArgumentError(
                "the task 'distil' of a be run has no cross-encoder to learn from", run="milvus-coop train joint"
            )
        if self.objective == "ce" and not self.miner and (needy := [name for name in self.order if TASKS[name].needs_retriever]):
            raise InvalidArgumentError(
                f"the task '{needy[0]}' asks a bi-encoder for negatives", expected="a trained one", run="--miner RUN"
            )

    def _check_numbers(self) -> None:
        for name, least in _LEAST.items():
            if not least <= getattr(self, name) <= _MOST.get(name, math.inf):
                to = f" to {_MOST[name]}" if name in _MOST else " or more"
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}", expected=f"{least}{to}")
        for name in _ABOVE_ZERO:
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}", expected="more than 0")
        if self.dropout >= 1:
            raise InvalidArgumentError(f"dropout is {self.dropout}", expected="less than 1")

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values for JSON."""
        return {**asdict(self), "order": list(self.order)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainConfig:
        """Read what `to_dict` or a user wrote.

        Raises:
            InvalidArgumentError: a name is unknown, or a value has the wrong type.
        """
        kinds = {field.name: _KINDS.get(str(field.type), object) for field in fields(cls)}
        for name, value in content.items():
            if name not in kinds:
                near = difflib.get_close_matches(name, kinds, 1)
                raise InvalidArgumentError(f"a run has no setting '{name}'", expected=", ".join(near) or "one of TrainConfig")
            if not isinstance(value, kinds[name]) or (isinstance(value, bool) and kinds[name] in (int, (int, float))):
                raise InvalidArgumentError(f"{name} is {json.dumps(value)}", expected=_SPOKEN[kinds[name]])
        return cls(**{**content, "order": tuple(cast("list[str]", content.get("order", [])))})


_KINDS: Mapping[str, Any] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "bool": bool,
    "bool | None": (bool, type(None)),
    "tuple[str, ...]": (list, tuple),
}
_SPOKEN: Mapping[Any, str] = {
    int: "a whole number",
    (int, float): "a number",
    str: "text",
    bool: "true or false",
    (bool, type(None)): "true or false",
    (list, tuple): "a list",
}
