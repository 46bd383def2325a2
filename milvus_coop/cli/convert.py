"""`milvus-coop bundle convert` and `bundle models`: pretrained checkpoints as bundles."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from milvus_coop.cli.lines import say, say_json
from milvus_coop.cli.outputs import check_folder
from milvus_coop.errors import ConvertError

if TYPE_CHECKING:
    from milvus_coop.offline.convert.bundle import Converted
    from milvus_coop.offline.convert.parity import Samples

_PACKAGES = ("torch", "transformers", "huggingface_hub", "onnx", "onnxscript")
_SAMPLE_PICTURES = 4


@click.command()
@click.argument("model", required=False)
@click.option("--be", help="Bi-encoder: a checkpoint of CLIP, SigLIP, SigLIP 2, BLIP or Qwen3-VL-Embedding (folder or hub id).")
@click.option("--ce", help="Cross-encoder: a checkpoint of BLIP, BLIP-2, ViLT, BridgeTower or Qwen3-VL-Reranker.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The bundle's folder, which is created."
)
@click.option("--revision", help="Branch, tag or commit of MODEL on the hub.")
@click.option("--be-revision", help="Branch, tag or commit of the model of --be.")
@click.option("--ce-revision", help="Branch, tag or commit of the model of --ce.")
@click.option("--name", help="Name of the bundle.  [default: the folder's name]")
@click.option("--bundle-version", "version", default="1.0.0", show_default=True, help="Version of the bundle.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="fp16: weights take half the space; int8: a third, for CPUs only.",
)
@click.option(
    "--keep",
    type=click.Choice(["collection", "store", "nowhere"]),
    help="Where image tokens are kept; nowhere: images are opened for every query.  [default: collection if they fit, else store]",
)
@click.option("--pool-tokens", type=click.IntRange(min=1), help="Average-pool the image tokens to G x G; needs fine-tuning.")
@click.option(
    "--text-length",
    type=click.IntRange(min=8),
    default=64,
    show_default=True,
    help="Maximum length of a text in tokens; SigLIP has its own.",
)
@click.option("--dim", type=click.IntRange(min=1), help="Embeddings of fewer numbers, for Qwen3-VL-Embedding.  [default: all]")
@click.option("--image-size", type=click.IntRange(min=1), help="Pixels per side, for Qwen3-VL.  [default: 256]")
@click.option("--instruction", help="Instruction of Qwen3-VL-Reranker.  [default: the published one]")
@click.option("--be-instruction", help="Instruction of Qwen3-VL-Embedding, for texts and images.  [default: the published one]")
@click.option("--licence", default="", help="Licence in the bundle's record.  [default: that of the model card]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def convert(
    model: str | None,
    be: str | None,
    ce: str | None,
    revision: str | None,
    be_revision: str | None,
    ce_revision: str | None,
    out: Path,
    as_json: bool,
    dim: int | None,
    image_size: int | None,
    instruction: str | None,
    be_instruction: str | None,
    **options: Any,
) -> None:
    """Make a bundle from pretrained checkpoints: MODEL in both roles, or --be and --ce.

    MODEL is a folder or an id of the Hugging Face hub. Only safetensors are read, and no code of the model's authors is run.
    The graphs are compared with the checkpoint's own forward pass before the bundle is written.

    \b
    Examples:
      milvus-coop bundle convert Salesforce/blip-itm-base-coco --out blip
      milvus-coop bundle convert --be google/siglip2-base-patch16-224 --ce dandelin/vilt-b32-finetuned-coco --out siglip-vilt
      milvus-coop bundle convert --be Qwen/Qwen3-VL-Embedding-2B --ce Qwen/Qwen3-VL-Reranker-2B --precision fp16 --out qwen
      milvus-coop ingest photos/ --bundle blip --collection blip
    """
    _need_torch()
    check_folder(out)
    _check_models(model, be, ce)
    _check_revisions((model, revision), (be, be_revision), (ce, ce_revision))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no incomplete files are left
    from milvus_coop.offline.convert.bundle import convert as run
    from milvus_coop.offline.convert.checkpoint import open_checkpoint
    from milvus_coop.offline.convert.family import Wishes

    first = open_checkpoint(model or be or "", revision or be_revision)
    second = first if ce is None else open_checkpoint(ce, ce_revision)
    wishes = Wishes(dim, image_size, instruction, be_instruction)
    converted = run(
        first, second, out, _samples(), wishes=wishes, on_progress=lambda message: say(f"{message} ...", err=True), **options
    )
    _print_converted(converted, as_json=as_json)


def _check_models(model: str | None, be: str | None, ce: str | None) -> None:
    if (model is None) == (be is None and ce is None) or (be is None) != (ce is None):
        raise ConvertError(
            "the models are not clear", expected="MODEL alone, or --be MODEL and --ce MODEL", run="milvus-coop bundle models"
        )


def _check_revisions(*given: tuple[str | None, str | None]) -> None:
    if any(revision and not model for model, revision in given):
        raise ConvertError(
            "a revision is given without its model", expected="--revision with MODEL, --be-revision with --be, and so on"
        )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per family and line.")
def models(as_json: bool) -> None:
    """List the families of checkpoints that can be converted."""
    from milvus_coop.cli.families import family_facts, print_families
    from milvus_coop.offline.convert.catalogue import FAMILIES

    if not as_json:
        print_families(FAMILIES)
        return
    for family in FAMILIES:
        say_json(family_facts(family))


def _samples() -> Samples:
    """Some of the package's sample images, with their names as texts."""
    from milvus_coop.cli.demo import sample_images
    from milvus_coop.models.preprocess.images import decode
    from milvus_coop.offline.convert.parity import Samples

    paths = sorted(sample_images().glob("*.jpg"))[:_SAMPLE_PICTURES]
    return Samples([decode(path) for path in paths], [f"a picture of a {path.stem.replace('_', ' ')}" for path in paths])


def _need_torch() -> None:
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ConvertError(f"converting needs {missing[0]}, which is not installed", run="pip install 'milvus-coop[train]'")


def _print_converted(converted: Converted, *, as_json: bool) -> None:
    """Print the bundle's folder, its differences from the checkpoint, and the next command."""
    from milvus_coop.offline.convert.parity import NOTEWORTHY, WITH_TOKENS

    bundle, spec = converted.bundle, converted.bundle.spec
    differences = {name: float(f"{found.largest:.2g}") for name, found in converted.differences.items()}
    n_bytes = sum(file.n_bytes for file in spec.files.values())
    if as_json:
        facts = {"bundle": str(bundle.folder), "fingerprint": spec.fingerprint, "bytes": n_bytes, "differences": differences}
        say_json(facts)
        return
    kept = "none, images are opened again" if spec.tokens.keep == "nowhere" else f"{spec.tokens.n_bytes:,} bytes per image"
    where = {"collection": " in the collection", "store": " in a token store", "nowhere": ""}[spec.tokens.keep]
    say(f"{bundle.folder}: {spec.label}, {spec.kind}, {n_bytes / 1e6:,.1f} MB")
    say(f"  image tokens: {kept}{where}")
    say("  largest difference from the checkpoint: " + ", ".join(f"{name} {value:g}" for name, value in differences.items()))
    if (stored := differences.get(WITH_TOKENS, 0.0)) > NOTEWORTHY:
        say(f"  Storing its tokens as int8 moves probabilities by up to {stored:g}: check its ranking.", fg="yellow")
    say(f"  milvus-coop ingest photos/ --bundle {bundle.folder} --collection {_collection(spec.name)}")


def _collection(name: str) -> str:
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return f"b_{plain}" if plain[0].isdigit() else plain
