"""`milvus-coop bundle`: list, show and make bundles."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from milvus_coop.cli.convert import convert, models
from milvus_coop.cli.lines import say
from milvus_coop.printable import printable_json

if TYPE_CHECKING:
    from milvus_coop.bundle.spec import BundleSpec


@click.group()
def bundle() -> None:
    """List, show and make bundles: the models that encode and rerank."""


bundle.add_command(convert)
bundle.add_command(models)


@bundle.command("list")
def list_() -> None:
    """List the shipped bundles."""
    from milvus_coop.bundle import load_bundle, shipped_bundles

    for name in shipped_bundles():
        spec = load_bundle(name).spec
        say(name, spec.version, spec.kind, f"dim {spec.dim}", spec.licence)


@bundle.command()
@click.argument("name_or_folder", default="coop-small")
@click.option("--verify", is_flag=True, help="Hash every file.")
@click.option("--json", "as_json", is_flag=True, help="The whole record.")
def show(name_or_folder: str, verify: bool, as_json: bool) -> None:
    """Show the facts of a bundle, by default coop-small.

    \b
    Examples:
      milvus-coop bundle show
      milvus-coop bundle show my-bundle/ --verify
    """
    from milvus_coop.bundle import load_bundle
    from milvus_coop.cli.tables import print_pairs

    opened = load_bundle(name_or_folder)
    if verify:
        opened.verify()
    spec = opened.spec
    if as_json:
        click.echo(printable_json(spec.to_json()), nl=False)
        return
    size = sum(file.n_bytes for file in spec.files.values())
    kept = {"collection": "in the collection", "store": "in a token store", "nowhere": ""}[spec.tokens.keep]
    tokens = f"{spec.tokens.count} x {spec.tokens.dim} x int8, {spec.tokens.n_bytes:,} bytes per image {kept}"
    if spec.tokens.keep == "nowhere":
        tokens = "none: images are opened again for every query"
    facts = {
        "name": spec.label,
        "fingerprint": spec.fingerprint + (" (every file verified)" if verify else ""),
        "kind": spec.kind,
        "embedding": f"{spec.dim} x float32",
        "image tokens": tokens,
        "ranks by": "match logit + cosine" if spec.score == "sum" else "match probability",
        "image": f"{spec.image.size} px, {spec.image.fit}, {spec.image.resampling}",
        "text": f"up to {spec.text.max_length} tokens",
        **_own_ways(spec),
        "size": f"{size / 1e6:.1f} MB in {opened.folder}",
        "licence": spec.licence,
        "lineage": json.dumps(spec.lineage, ensure_ascii=False),
        "metrics": json.dumps(spec.metrics, ensure_ascii=False),
    }
    print_pairs("", facts.items())


def _own_ways(spec: BundleSpec) -> dict[str, str]:
    """The cross-encoder's own preprocessing of images and texts, for a bundle of two models. Empty if it has none."""
    ways = {}
    if spec.ce_image is not None:
        ways["image, cross-encoder"] = f"{spec.ce_image.size} px, {spec.ce_image.fit}, {spec.ce_image.resampling}"
    if spec.ce_text is not None:
        ways["text, cross-encoder"] = f"up to {spec.ce_text.max_length} tokens"
    return ways
