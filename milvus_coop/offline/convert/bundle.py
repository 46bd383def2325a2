"""The function `convert`: it makes a bundle of one checkpoint in both roles, or of a bi-encoder and a cross-encoder."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_coop.bundle.folder import CE_TOKENIZER, TOKENIZER, Bundle, check_new_bundle, write_record
from milvus_coop.bundle.spec import Keep, TextSpec
from milvus_coop.errors import ConvertError, quoted, reason_of
from milvus_coop.offline.convert.card import write_card
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.families import open_source
from milvus_coop.offline.convert.family import CheckpointSource, Wishes
from milvus_coop.offline.convert.graphs import EXAMPLE_LENGTH, GraphPrecision, write_graphs
from milvus_coop.offline.convert.parity import Samples, measure, refuse
from milvus_coop.offline.convert.parts import Parts, make_parts, make_spec, module_makers
from milvus_coop.offline.convert.tokenizing import write_tokenizer
from milvus_coop.offline.export.parity import Difference

TEXT_LENGTH = 64
"""Maximum text length in tokens. Captions and queries are shorter; BLIP's authors cut at 35. Fewer give smaller TensorRT plans."""


@dataclass(frozen=True)
class Converted:
    """A bundle, and the differences of its graphs from the checkpoint."""

    bundle: Bundle
    differences: dict[str, Difference]
    """The difference of each output over the samples; see `convert.parity.measure`."""


def convert(
    be: Checkpoint,
    ce: Checkpoint,
    out: Path,
    samples: Samples,
    *,
    name: str | None = None,
    version: str = "1.0.0",
    precision: GraphPrecision = "fp32",
    keep: Keep | None = None,
    pool_tokens: int | None = None,
    text_length: int = TEXT_LENGTH,
    licence: str = "",
    wishes: Wishes | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Converted:
    """Write a bundle. If this fails, nothing is left behind.

    Args:
        be: the bi-encoder's checkpoint.
        ce: the cross-encoder's checkpoint. For a joint model it is the same object, and one vision tower serves both roles.
        out: the bundle's folder. It must not exist.
        samples: images and texts for the comparison with the checkpoint.
        name: the name of the bundle; by default the folder's name.
        version: the version of the bundle.
        precision: the precision of the graphs; see `convert.graphs.write_graphs`.
        keep: where image tokens are kept; by default in the collection if they fit, else in a token store.
        pool_tokens: the side to which the grid of image tokens is average-pooled.
        text_length: the maximum text length in tokens, at least 8. A model that was trained on padded texts (SigLIP), or has
            fewer positions, uses its own length.
        licence: the licence in the record; by default that of the checkpoints.
        wishes: what is asked of the families: length of the embedding, image size, instructions.
        on_progress: called with a description of each step.

    Raises:
        ConvertError: a checkpoint cannot be used in its role, or the graphs do not compute the same as the checkpoint.
    """
    name = name or out.name
    _check(out, name, text_length)
    with _workshop(out) as folder:
        on_progress("opening the checkpoint" if be is ce else "opening the checkpoints")
        source = open_source(be, "joint" if be is ce else "be", wishes)
        other = source if be is ce else open_source(ce, "ce", wishes)
        _check_wishes(wishes or Wishes(), source, other)
        parts = make_parts(source, other, keep=keep, pool_tokens=pool_tokens)
        text, ce_text = _write_tokenizers(parts, folder, text_length)
        spec = make_spec(parts, name, version, text, ce_text, licence or _licence(be, ce))
        spec = dataclasses.replace(spec, lineage=_lineage(be, ce, precision, pool_tokens, wishes or Wishes()))
        on_progress("exporting the graphs")
        write_graphs(module_makers(parts), spec, folder, precision)
        on_progress("comparing them with the checkpoint")
        differences = measure(write_record(folder, spec), parts, samples)
        refuse(differences, precision)
        bundle = write_record(folder, dataclasses.replace(spec, metrics=_metrics(differences)))
        write_card(bundle, precision, differences, pooled=pool_tokens is not None)
        folder.rename(out)
    return Converted(Bundle(out, bundle.spec), differences)


def _check(out: Path, name: str, text_length: int) -> None:
    """Refuse what cannot become a bundle before the work begins.

    Raises:
        ConvertError: the folder exists, the text length is too small, or the name cannot name a bundle.
    """
    check_new_bundle(out, name, ConvertError)
    if text_length < EXAMPLE_LENGTH:
        raise ConvertError(f"the text length is {text_length}", expected=f"at least {EXAMPLE_LENGTH}")


def _check_wishes(wishes: Wishes, *sources: CheckpointSource) -> None:
    """Refuse what none of the families can do.

    Raises:
        ConvertError: a wish has no effect.
    """
    for name, value in dataclasses.asdict(wishes).items():
        if value is not None and not any(name in source.family.wishes for source in sources):
            option = f"--{name.replace('_', '-')}"
            names = " and ".join(dict.fromkeys(source.family.name for source in sources))
            raise ConvertError(f"{names} cannot follow {option} {quoted(value)}", expected=f"no {option}")


@contextmanager
def _workshop(out: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `out`, in which the bundle is built. It is removed at the end in any case.

    Raises:
        ConvertError: the folder cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert-") as temporary:
            folder = Path(temporary) / "bundle"
            folder.mkdir()
            yield folder
    except OSError as exc:
        raise ConvertError(f"{out} cannot be written: {reason_of(exc)}", expected="a folder on a disk with room for it") from exc


def _write_tokenizers(parts: Parts, folder: Path, limit: int) -> tuple[TextSpec, TextSpec | None]:
    """Write the bi-encoder's tokenizer, and the cross-encoder's if it is another one."""
    text = _write_tokenizer(parts.be, folder / TOKENIZER, limit)
    if parts.is_joint:
        return text, None
    ce_text = _write_tokenizer(parts.ce, folder / CE_TOKENIZER, limit)
    if ce_text == text and (folder / TOKENIZER).read_bytes() == (folder / CE_TOKENIZER).read_bytes():
        (folder / CE_TOKENIZER).unlink()
        return text, None
    return text, ce_text


def _write_tokenizer(source: CheckpointSource, path: Path, limit: int) -> TextSpec:
    longest = source.positions if source.pad_to_max else min(source.positions, limit)
    return write_tokenizer(source.tokenizer, path, max_length=longest, pad_to_max=source.pad_to_max)


def _licence(be: Checkpoint, ce: Checkpoint) -> str:
    return " and ".join(dict.fromkeys(licence for licence in (be.licence, ce.licence) if licence))


def _lineage(be: Checkpoint, ce: Checkpoint, precision: GraphPrecision, pool_tokens: int | None, wishes: Wishes) -> dict[str, Any]:
    origin = {"checkpoint": be.lineage()} if be is ce else {"bi_encoder": be.lineage(), "cross_encoder": ce.lineage()}
    asked = {"pool_tokens": pool_tokens, **dataclasses.asdict(wishes)}
    return {**origin, "precision": precision, **{name: value for name, value in asked.items() if value is not None}}


def _metrics(differences: dict[str, Difference]) -> dict[str, Any]:
    return {"difference from the checkpoint": {name: float(f"{found.largest:.3g}") for name, found in differences.items()}}
