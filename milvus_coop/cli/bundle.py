"""`milvus-coop bundle`: list, show and make bundles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from milvus_coop.cli.convert import convert, models
from milvus_coop.cli.lines import say, say_json
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
@click.option("--json", "as_json", is_flag=True, help="The whole record.")
def show(name_or_folder: str, as_json: bool) -> None:
    """Show the facts of a bundle, by default coop-small.

    \b
    Examples:
      milvus-coop bundle show
      milvus-coop bundle show my-bundle/
    """
    from milvus_coop.bundle import load_bundle
    from milvus_coop.cli.tables import print_pairs

    opened = load_bundle(name_or_folder)
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
        "fingerprint": spec.fingerprint,
        "kind": spec.kind,
        "embedding": f"{spec.dim} x float32",
        "image tokens": tokens,
        "text states": _states(spec),
        "ranks by": "match logit + cosine" if spec.score == "sum" else "match probability",
        "image": f"{spec.image.size} px, {spec.image.fit}, {spec.image.resampling}",
        "text": f"up to {spec.text.max_length} tokens",
        **_own_ways(spec),
        "size": f"{size / 1e6:.1f} MB in {opened.folder}",
        "licence": spec.licence,
        "lineage": _brief(spec.lineage),
        "metrics": _brief(spec.metrics),
    }
    print_pairs("", facts.items())


@bundle.command()
@click.argument("name_or_folder")
@click.option("--fingerprint", default="", help="The fingerprint that the bundle's author announces.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify(name_or_folder: str, fingerprint: str, as_json: bool) -> None:
    """Hash every file of a bundle, check its graphs, and compare its fingerprint.

    Nothing of the bundle is run. Exit code 1: something does not match, and the bundle should not be used.

    
    Examples:
      milvus-coop bundle verify coop-small
      milvus-coop bundle verify my-bundle/ --fingerprint 512af565bcd2ddeeef9c07a9005f0343
    """
    from milvus_coop.bundle.verify import verify_bundle
    from milvus_coop.cli.tables import print_pairs

    found = verify_bundle(name_or_folder, fingerprint)
    if as_json:
        say_json(asdict(found))
    else:
        files = ((name, "as described" if fits else "DAMAGED") for name, fits in found.files.items())
        operators = ((graph, f"{len(names)} kinds of operators, all allowed") for graph, names in found.operators.items())
        problems = ((f"problem {number}", text) for number, text in enumerate(found.problems, 1))
        print_pairs("", [("bundle", found.label), ("fingerprint", found.fingerprint), *files, *operators, *problems])
    raise click.exceptions.Exit(int(bool(found.problems)))


def _states(spec: BundleSpec) -> str:
    """The part of each encoded text that a collection keeps for the cross-encoder, for people."""
    from milvus_coop.bundle.text_states import reads_text_encoder, state_bytes, text_states

    if not reads_text_encoder(spec):
        return "none: the cross-encoder reads the texts themselves"
    if not (states := text_states(spec)):
        return "none: texts are encoded again for every query"
    longest = state_bytes(states, spec.text.max_length)
    per_token = state_bytes(states, 1) - state_bytes(states, 0)
    each = f"{state_bytes(states, 0):,} bytes per text and {per_token:,} per token, at most {longest:,}" if per_token else ""
    return f"{each or f'{longest:,} bytes per text'}, in the collection"


def _brief(facts: Mapping[str, Any]) -> str:
    """The facts in one line; those with facts of their own only by name."""
    whole = [
        f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items() if not isinstance(value, dict | list)
    ]
    longer = [name for name, value in facts.items() if isinstance(value, dict | list)]
    return "; ".join([*whole, *([f"{', '.join(longer)} (with --json)"] if longer else [])])


def _own_ways(spec: BundleSpec) -> dict[str, str]:
    """The cross-encoder's own preprocessing of images and texts, for a bundle of two models. Empty if it has none."""
    ways = {}
    if spec.ce_image is not None:
        ways["image, cross-encoder"] = f"{spec.ce_image.size} px, {spec.ce_image.fit}, {spec.ce_image.resampling}"
    if spec.ce_text is not None:
        ways["text, cross-encoder"] = f"up to {spec.ce_text.max_length} tokens"
    return ways
