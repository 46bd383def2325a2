"""The data of an evaluation: the images and distinct texts of a split, which of them belong together, and distractors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from milvus_coop.errors import DatasetError, ImageError, InvalidArgumentError
from milvus_coop.models.preprocess.texts import check_text
from milvus_coop.offline.datasets import Caption, CaptionedImage, DataProblem, Dataset, Split
from milvus_coop.offline.evaluation.progress import EvaluationProgress, OnProgress, silent


@dataclass(frozen=True, slots=True)
class PoolImage:
    """One image of the pool."""

    id: str
    path: Path
    distractor: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """One distinct text of the pool; images that share a caption share the text."""

    text: str
    images: frozenset[int] = frozenset()
    """Numbers of the images that the text describes. Empty for a distractor."""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class EvaluationCorpus:
    """Images, and texts by language. An item is named by its number: its position in the data."""

    name: str
    split: Split
    images: tuple[PoolImage, ...]
    texts: dict[str, tuple[Text, ...]]
    problems: tuple[DataProblem, ...]

    def without(self, images: Iterable[int], problems: Sequence[DataProblem]) -> EvaluationCorpus:
        """A corpus without these images, and without the texts that describe no other image."""
        gone = set(images)
        number = {old: new for new, old in enumerate(i for i in range(len(self.images)) if i not in gone)}
        texts = {}
        for language, some in self.texts.items():
            left = [Text(t.text, frozenset(number[i] for i in t.images if i in number), t.kind) for t in some]
            texts[language] = tuple(new for new, old in zip(left, some, strict=True) if new.images or not old.images)
        images_left = tuple(self.images[old] for old in number)
        return EvaluationCorpus(self.name, self.split, images_left, texts, (*self.problems, *problems))


def build_corpus(
    dataset: Dataset,
    folder: Path,
    *,
    split: Split = "test",
    languages: Sequence[str] = (),
    distractors: Dataset | None = None,
    on_progress: OnProgress = silent,
) -> EvaluationCorpus:
    """Read a split. Images that the data set draws itself are written into `folder` as PNG files.

    Args:
        dataset: the source of queries and right answers.
        folder: where drawn images are written. It must exist.
        split: the part of the data that is read.
        languages: the languages of the captions, each evaluated on its own. Empty means all languages.
        distractors: a data set that gives more items for the pools, from the same split where it has one. Distractors are never
            queries and never right, so they need no captions. An item that shares a caption with the data is left out, because it
            would be right.
        on_progress: called while images are written.

    Raises:
        DatasetError: the split is empty, or has no captions of a language.
    """
    items = list(dataset.items(split))
    if not items:
        raise _empty(dataset.name, split, dataset.problems)
    problems = list(dataset.problems)
    languages = _languages(dataset.name, items, languages)
    items = [_readable(item, problems) for item in items]
    texts = {language: _texts(items, language) for language in languages}
    extra: list[CaptionedImage] = []
    if distractors is not None:
        extra = [_readable(item, problems) for item in _distractors(distractors, split, texts, problems)]
        texts = {language: (*known, *_more(known, extra, language)) for language, known in texts.items()}
    images, broken = _image_files(
        [(dataset, i) for i in items] + [(distractors or dataset, i) for i in extra], len(items), folder, on_progress
    )
    corpus = EvaluationCorpus(dataset.name, split, tuple(images), texts, tuple(problems))
    return corpus.without(broken, list(broken.values())) if broken else corpus


def _empty(name: str, split: Split, problems: Sequence[DataProblem]) -> DatasetError:
    """The error for a split without items. What was left out is the likely reason, and comes first."""
    given = f"{name} has no items in the split '{split}'"
    if problems:
        more = f" (and {len(problems) - 1:,} more problems)" if len(problems) > 1 else ""
        given = f"{problems[0].place}: {problems[0].reason}{more}; so {given}"
    return DatasetError(given, expected="another --split, or other --data")


def _languages(name: str, items: Sequence[CaptionedImage], asked: Sequence[str]) -> list[str]:
    there = list(dict.fromkeys(caption.language for item in items for caption in item.captions))
    if missing := [language for language in asked if language not in there]:
        raise DatasetError(f"{name} has no captions in '{missing[0]}'", expected=f"--language with one of {', '.join(there)}")
    return list(dict.fromkeys(asked)) or there


def _readable(item: CaptionedImage, problems: list[DataProblem]) -> CaptionedImage:
    """The item without the captions that no collection can hold."""
    left = []
    for caption in item.captions:
        try:
            check_text(caption.text)
            left.append(caption)
        except InvalidArgumentError as exc:
            problems.append(DataProblem(item.id, str(exc)))
    return replace(item, captions=tuple(left))


def _texts(items: Sequence[CaptionedImage], language: str) -> tuple[Text, ...]:
    images: dict[str, set[int]] = {}
    kinds: dict[str, str] = {}
    for number, item in enumerate(items):
        for caption in _captions(item, language):
            images.setdefault(caption.text, set()).add(number)
            kinds.setdefault(caption.text, caption.kind)
    return tuple(Text(text, frozenset(found), kinds[text]) for text, found in images.items())


def _captions(item: CaptionedImage, language: str) -> list[Caption]:
    return [caption for caption in item.captions if caption.language == language]


def _distractors(
    dataset: Dataset, split: Split, texts: dict[str, tuple[Text, ...]], problems: list[DataProblem]
) -> list[CaptionedImage]:
    """Items that are wrong for every query. A data set that lacks the split gives all its items."""
    items = list(dataset.items(split)) or [item for other in ("test", "dev", "train") for item in dataset.items(other)]
    if not items:
        left_out = [f"{problem.place}: {problem.reason}" for problem in dataset.problems]
        why = f"; {len(left_out):,} left out, first: {left_out[0]}" if left_out else ""
        raise DatasetError(f"the distractors {dataset.name} have no items{why}", expected="other --distractors")
    taken = {text.text for some in texts.values() for text in some}
    wrong = [item for item in items if not any(caption.text in taken for caption in item.captions)]
    problems += dataset.problems
    if n_shared := len(items) - len(wrong):
        problems.append(DataProblem(dataset.name, f"{n_shared} distractors left out: they share a caption with the data"))
    return wrong


def _more(known: Sequence[Text], items: Sequence[CaptionedImage], language: str) -> list[Text]:
    have = {text.text for text in known}
    return [Text(t) for t in dict.fromkeys(c.text for item in items for c in _captions(item, language)) if t not in have]


def _image_files(
    items: Sequence[tuple[Dataset, CaptionedImage]], n_queries: int, folder: Path, on_progress: OnProgress
) -> tuple[list[PoolImage], dict[int, DataProblem]]:
    """An image file for every item, and the items whose image cannot be opened."""
    images: list[PoolImage] = []
    broken: dict[int, DataProblem] = {}
    to_draw = sum(item.path is None for _, item in items)
    drawn = 0
    for number, (dataset, item) in enumerate(items):
        path = item.path
        if path is None:
            path = folder / f"{number}.png"
            try:
                dataset.open(item).save(path, compress_level=1)
            except ImageError as exc:
                broken[number] = DataProblem(item.id, str(exc))
            drawn += 1
            if drawn % 50 == 0 or drawn == to_draw:
                on_progress(EvaluationProgress("write images", drawn, to_draw))
        images.append(PoolImage(item.id, path, distractor=number >= n_queries))
    return images, broken
