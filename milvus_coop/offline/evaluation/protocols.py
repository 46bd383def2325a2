"""Published protocols as pools. A pool says which items are queries and which items are searched.

- `all`: every item of the split in one pool. Flickr30k 1k and Multi30k use this protocol: their test splits have 1,000 images.
- `5k`: MSCOCO's 5,000 test images (Karpathy's split) in one pool.
- `1k`: the same images in 5 folds of 1,000. The figures are averaged over the folds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from milvus_coop.errors import DatasetError, InvalidArgumentError
from milvus_coop.offline.evaluation.corpus import EvaluationCorpus, Text

Protocol = Literal["all", "1k", "5k"]
FOLD = 1000
FOLDS = 5


@dataclass(frozen=True, slots=True)
class QueryPool:
    """One retrieval task, in both directions, within one language."""

    language: str
    fold: int
    images: tuple[int, ...]
    """Numbers of the images that are searched, with the distractors last."""
    texts: tuple[int, ...]
    """Numbers of the texts that are searched."""
    relevant_images: dict[int, frozenset[int]]
    """The right images of each text that is a query."""
    relevant_texts: dict[int, frozenset[int]]
    """The right texts of each image that is a query."""

    @property
    def pairs(self) -> tuple[int, int]:
        """Numbers of pairs that an exhaustive cross-encoder scores: for image retrieval, and for text retrieval."""
        return len(self.relevant_images) * len(self.images), len(self.relevant_texts) * len(self.texts)

    @property
    def distinct_pairs(self) -> int:
        """Number of pairs of both directions. A pair that both directions need counts once."""
        both = len(self.relevant_images) * len(self.relevant_texts)
        return sum(self.pairs) - both


def pools(corpus: EvaluationCorpus, protocol: Protocol = "all", *, fold: int = FOLD, folds: int = FOLDS) -> Iterator[QueryPool]:
    """The pools of a protocol, language by language.

    Raises:
        InvalidArgumentError: there is no such protocol.
        DatasetError: the corpus is too small for it, or a pool has no query.
    """
    if protocol not in get_args(Protocol):
        raise InvalidArgumentError(f"the protocol is '{protocol}'", expected=", ".join(get_args(Protocol)))
    own = [number for number, image in enumerate(corpus.images) if not image.distractor]
    others = tuple(number for number, image in enumerate(corpus.images) if image.distractor)
    if protocol != "all" and len(own) < fold * folds:
        raise DatasetError(
            f"{corpus.name} has {len(own):,} images in its split '{corpus.split}'",
            expected=f"{fold * folds:,} or more for the protocol {protocol}, or --protocol all",
        )
    parts = {"all": [own], "5k": [own[: fold * folds]], "1k": [own[i * fold : (i + 1) * fold] for i in range(folds)]}[protocol]
    for language, texts in corpus.texts.items():
        for number, part in enumerate(parts):
            pool = _pool(language, number, tuple(part), others, texts)
            if not pool.relevant_images:
                raise DatasetError(
                    f"{corpus.name} has no image with a caption in '{language}' that can be used", expected="one or more"
                )
            yield pool


def _pool(language: str, fold: int, own: tuple[int, ...], others: tuple[int, ...], texts: tuple[Text, ...]) -> QueryPool:
    inside = frozenset(own)
    relevant_images = {n: text.images & inside for n, text in enumerate(texts) if text.images & inside}
    relevant_texts: dict[int, set[int]] = {}
    for number, images in relevant_images.items():
        for image in images:
            relevant_texts.setdefault(image, set()).add(number)
    return QueryPool(
        language=language,
        fold=fold,
        images=(*own, *others),
        texts=tuple(n for n, text in enumerate(texts) if n in relevant_images or not text.images),
        relevant_images=relevant_images,
        relevant_texts={image: frozenset(relevant_texts[image]) for image in sorted(relevant_texts)},
    )
