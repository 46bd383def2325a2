"""The settings of a run in one flat record. The module does not import PyTorch, so that the command line can read the fields.

Each field has its type, its bounds and its help text in one place. `milvus-coop train` makes its options from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from milvus_coop.arguments import LARGEST
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.offline.training.run.order import ORDERS, TASKS, Objective
from milvus_coop.records import check_record, parse_file, read_record

Precision = Literal["auto", "no", "bf16", "fp16"]
# msgspec itself accepts infinity, and whole numbers of any length.
Natural = Annotated[int, Meta(ge=0, le=LARGEST)]
Positive = Annotated[int, Meta(ge=1, le=LARGEST)]
Rate = Annotated[float, Meta(gt=0, le=LARGEST)]
Weight = Annotated[float, Meta(ge=0, le=LARGEST)]


def _help(text: str, **more: str) -> Meta:
    """The help text of a field. `off` is the name of the flag that turns a setting off."""
    return Meta(description=text, extra=more or None)


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of a run. Sizes that are 0 follow from `init` and `vision`, or get the defaults of `start`."""

    objective: Objective
    data: Annotated[str, Meta(min_length=1), _help("Captioned images: FORMAT:PATH[,key=value]..., or a path.")]
    order: Annotated[tuple[str, ...], _help("Tasks of a round, such as be,ce-hard; see below.")] = ()
    rounds: Annotated[Positive, _help("Rounds of tasks.")] = 1000
    batch: Annotated[int, Meta(ge=2, le=LARGEST), _help("Images per task and process.")] = 64
    """A single pair has no other pair to compare with."""
    accumulate: Annotated[Positive, _help("Batches per optimiser step.")] = 1
    """In-batch negatives still come from one batch."""
    learning_rate: Annotated[Rate, _help("Maximum learning rate.")] = 3e-4
    warm_up: Annotated[Natural, _help("Rounds in which the learning rate rises. Then it falls along a cosine to zero.")] = 100
    weight_decay: Annotated[Weight, _help("Weight decay of AdamW.")] = 0.01
    clip: Annotated[Rate, _help("Maximum norm of the gradient.")] = 1.0
    margin: Annotated[Weight, _help("Margin of the triplet losses.")] = 0.1
    keep_groups: Annotated[bool, _help("Keep look-alikes in one batch (generated data).  [default: shuffle]", off="shuffle")] = (
        False
    )
    """Look-alikes have the same `CaptionedImage.group`."""
    mined: Annotated[Positive, _help("Length of the lists of the bi-encoder's best wrong answers.")] = 50
    mine_every: Annotated[
        Positive, _help("Minimum rounds for which these lists are used; the next pass over the data makes them again.")
    ] = 100
    """To make the lists, every caption and image of the training set goes through the network. On a small set that costs as much as
    20 rounds."""
    hard_share: Annotated[
        float, Meta(ge=0, le=1), _help("Share of mined negatives among those of ce-top and ce-list. The others are random.")
    ] = 0.5
    """Geigle et al.'s code has 0.05. With a share of 1, a cross-encoder that starts from random weights never gets better than
    chance."""
    init: Annotated[
        str, _help("A run or bundle to start from, or a BERT, VisualBERT, RoBERTa or XLM-RoBERTa checkpoint (folder or id).")
    ] = ""
    vision: Annotated[
        str,
        _help("Backbone: conv (untrained), efficientnet-lite0, a folder with vision.json, or a checkpoint of transformers."),
    ] = "conv"
    """See `networks.pretrained.open_vision`."""
    train_vision: Annotated[
        bool | None,
        _help(
            "Train the backbone as well. The features of a frozen backbone are cached.  [default: train only conv]",
            off="freeze-vision",
        ),
    ] = None
    """If None, only an untrained backbone is trained."""
    miner: Annotated[
        str, _help("For ce: the run whose bi-encoder finds the hard negatives, and the candidates for the dev score.")
    ] = ""
    side: Annotated[
        Natural, _help("Pool the backbone's grid to this many cells per side.  [default: 4 for efficientnet-lite0, else as it is]")
    ] = 0
    image_size: Annotated[Natural, _help("Pixels per side, for conv.")] = 0
    tokens: Annotated[Natural, _help("Image tokens per image, made by as many learnt queries.  [default: one per cell]")] = 0
    token_dim: Annotated[Positive, _help("Numbers per image token.")] = 64
    width: Annotated[Natural, _help("Width of the transformer.")] = 0
    layers: Annotated[Natural, _help("Layers of the transformer; of a checkpoint, the first ones are used.")] = 0
    heads: Annotated[Natural, _help("Attention heads of the transformer.")] = 0
    dim: Annotated[int, Meta(ge=0, le=32_768), _help("Length of an embedding.")] = 0
    dropout: Annotated[float, Meta(ge=0, lt=1), _help("Share of activations that are dropped.")] = 0.1
    match: Annotated[Literal["cls", "residual"], _help("Match logit from [CLS], or a correction of the network's own cosine.")] = (
        "cls"
    )
    """See `NetworkConfig.match`. A network that a run starts from keeps its own value."""
    norm: Annotated[
        Literal["", "post", "pre", "deepnorm"],
        _help(
            "Norms of the transformer: after each block (BERT's), before it, or DeepNorm for deep networks.  "
            "[default: that of --init, post with a checkpoint, else pre]"
        ),
    ] = ""
    """See `networks.transformer.Layer`."""
    max_length: Annotated[int, Meta(ge=3, le=LARGEST), _help("Maximum length of a caption in tokens.")] = 32
    vocabulary: Annotated[Positive, _help("Maximum vocabulary of a tokenizer that is trained here.")] = 8000
    eval_every: Annotated[Positive, _help("Rounds between evaluations on the dev split, each with a checkpoint.")] = 200
    patience: Annotated[Natural, _help("Stop after this many evaluations without a better dev score; 0: never.")] = 0
    dev_items: Annotated[int, Meta(ge=2, le=LARGEST), _help("Images of the dev pool that are used.")] = 1000
    k: Annotated[Positive, _help("Candidates that are reranked for the dev score.")] = 20
    dev_queries: Annotated[Natural, _help("Queries per direction that are reranked for the dev score; 0: all.")] = 250
    """They are spread evenly over the dev pool. With all 5,000 captions and 1,000 images of Flickr8k's dev split this is 120,000
    pairs, more work than 200 rounds of training."""
    seed: Annotated[Natural, _help("Seed of all random draws.")] = 0
    threads: Annotated[Natural, _help("Threads of PyTorch; 0: PyTorch's own choice.")] = 0
    precision: Annotated[
        Precision, _help("Mixed precision. auto: bf16 where the CPU or GPU multiplies bfloat16, else no (float32).")
    ] = "auto"
    """The run records the choice."""
    tensorboard: Annotated[bool, _help("Also write TensorBoard files into the run.")] = False

    def __post_init__(self) -> None:
        """Check the fields, and fill in the order and the training of the backbone."""
        check_record(self, InvalidArgumentError)
        if self.train_vision is None:
            object.__setattr__(self, "train_vision", self.vision == "conv" and not self.init)
        if not self.order:
            object.__setattr__(self, "order", ORDERS[self.objective])
        if unknown := [name for name in self.order if name not in TASKS]:
            raise InvalidArgumentError(f"the order names the task '{unknown[0]}'", expected=", ".join(TASKS))
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

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values for JSON."""
        return {**asdict(self), "order": list(self.order)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainConfig:
        """Read what `to_dict` or a user wrote.

        Raises:
            InvalidArgumentError: a name is unknown, or a value is wrong. The message names the field.
        """
        return read_record(cls, dict(content), InvalidArgumentError)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a JSON file, which may be a run.json. `TrainConfig.from_dict` checks them.

    Raises:
        InvalidArgumentError: the file cannot be read, or is not a JSON object.
    """
    content = parse_file(path, InvalidArgumentError)
    settings = content.get("config", content) if isinstance(content, dict) else content
    if not isinstance(settings, dict):
        raise InvalidArgumentError(f"{path} holds no settings", expected="a JSON object, or a run.json")
    return settings
