"""The numbers of a run, in one flat record. Imports no PyTorch, so that the command line can read the defaults."""

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
    **dict.fromkeys(("batch", "dev_items"), 2),  # one pair alone has nothing to be compared with
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
    """A run. Sizes that are 0 follow from `init` and `vision`, or get the defaults of `start`."""

    objective: Objective
    data: str
    """As `open_dataset` takes it."""
    order: tuple[str, ...] = ()
    """Tasks of a round, see `order`."""
    rounds: int = 1000
    batch: int = 64
    """Images per task and process."""
    accumulate: int = 1
    """Batches per optimiser step. In-batch negatives still come from one batch."""
    learning_rate: float = 3e-4
    warm_up: int = 100
    """Rounds over which the rate rises; it then falls along a cosine to zero."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    margin: float = 0.1
    """Of the triplet losses."""
    keep_groups: bool = False
    """Whether look-alikes (`Item.group`) come in the same batch."""
    mined: int = 50
    """Length of the lists of BE negatives."""
    mine_every: int = 100
    """Rounds for which such lists are good at least: they are made anew for a pass over the data that begins after so many. To make
    them, every caption and image of the training set goes through the network: on a small set that is work for 20 rounds."""
    hard_share: float = 0.5
    """Share of these among the negatives that `ce-top` and `ce-list` draw; the others are random. Geigle et al.'s code has 0.05.
    With 1 a cross-encoder that starts from random weights stays at chance."""
    init: str = ""
    """A run or bundle to go on from, or a text checkpoint of transformers; '': random weights."""
    vision: str = "conv"
    """See `networks.pretrained.open_vision`."""
    train_vision: bool | None = None
    """False: the backbone is frozen and its features are cached; None: only an untrained one is trained."""
    miner: str = ""
    """For `ce`: the run whose bi-encoder finds hard negatives and the candidates of the dev score."""
    side: int = 0
    """Cells per side of the feature grid."""
    image_size: int = 0
    tokens: int = 0
    """Image tokens; 0: one per cell."""
    token_dim: int = 64
    width: int = 0
    layers: int = 0
    heads: int = 0
    dim: int = 0
    dropout: float = 0.1
    match: Literal["cls", "residual"] = "cls"
    """See `NetworkConfig.match`; a network that is gone on from keeps its own."""
    norm: Literal["", "post", "pre", "deepnorm"] = ""
    """Where the transformer's layers have their norms: see `networks.transformer.Layer`. '': post for a network that starts from a
    text checkpoint, as BERT has it; pre for one that starts from random weights; that of `init` for one that is gone on from."""
    max_length: int = 32
    vocabulary: int = 8000
    """Largest vocabulary of a tokenizer that is trained here."""
    eval_every: int = 200
    """Rounds between evaluations; each leaves a checkpoint."""
    patience: int = 0
    """Evaluations without a better dev score after which the run stops; 0: never."""
    dev_items: int = 1000
    """Images of the dev pool that are used."""
    k: int = 20
    """Candidates that the cross-encoder rescores for the dev score."""
    dev_queries: int = 250
    """Queries per direction that the cross-encoder reranks for the dev score, spread evenly over the dev pool; 0: all of them. All
    5,000 captions and 1,000 images of Flickr8k's dev split are 120,000 pairs, more work than 200 rounds of training."""
    seed: int = 0
    threads: int = 0
    """Threads of PyTorch; 0: as it likes."""
    precision: Precision = "auto"
    """`auto`: bf16 where the hardware multiplies bfloat16, else no (float32); the run records which of them it was."""
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Fill in the order; refuse what makes no sense."""
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
        """For JSON."""
        return {**asdict(self), "order": list(self.order)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainConfig:
        """Read what `to_dict` wrote, or a user.

        Raises:
            InvalidArgumentError: a name is not known, or a value is of another type.
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
