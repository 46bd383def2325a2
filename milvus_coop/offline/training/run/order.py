"""The tasks of a round. They take turns; each has its own batch, backward pass and optimiser step (Geigle et al.)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Objective = Literal["be", "ce", "joint"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
ORDERS: Mapping[Objective, tuple[str, ...]] = {"be": ("be",), "ce": ("ce",), "joint": ("be", "ce")}
"""The default tasks of a round for each objective."""


@dataclass(frozen=True)
class Task:
    """One task of a round."""

    name: str
    role: Literal["be", "ce"]
    about: str
    negatives: int = 0
    """Number of mined negatives per pair and direction."""
    blocks: bool = False
    """If true, the negatives are pairs themselves: each caption comes with its image."""
    maximum: int = 0
    """Maximum number of pairs of a batch that are used. 0 for all."""
    needs_retriever: bool = False
    """True if the task needs a trained bi-encoder."""


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("be", "be", "triplet loss, hardest negative of the batch"),
        Task("be-nce", "be", "InfoNCE over the batch"),
        Task("ance", "be", "triplet loss, 7 negatives from the bi-encoder's top 50", 7, needs_retriever=True),
        Task("distil", "be", "the bi-encoder learns the cross-encoder's order", needs_retriever=True),
        Task("ce", "ce", "matched or not, random negatives"),
        Task("ce-hard", "ce", "matched or not, hard negatives of the batch", needs_retriever=True),
        Task("ce-top", "ce", "matched or not, negatives at random and from the bi-encoder's top 50", 1, needs_retriever=True),
        Task("ce-list", "ce", "pick the right one from 7 others, drawn as for ce-top", 7, needs_retriever=True),
        Task(
            "ce-block",
            "ce",
            "4 blocks of a pair and 5 pairs near it: pick the right one, both ways",
            5,
            needs_retriever=True,
            blocks=True,
            maximum=4,
        ),
        Task("mlm", "ce", "fill in 15 % of the word pieces, with the image at hand"),
        Task("itm", "ce", "matched or not, each pair kept or swapped at random by a coin"),
    )
}
