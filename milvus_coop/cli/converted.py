"""The summary of a converted bundle in a terminal."""

from __future__ import annotations

from milvus_coop.cli.lines import say, say_json
from milvus_coop.offline.convert.bundle import Converted
from milvus_coop.offline.convert.parity import NOTEWORTHY, WITH_TOKENS


def print_converted(converted: Converted, *, as_json: bool) -> None:
    """Print the bundle's folder, its differences from the checkpoint, and the next command."""
    bundle, spec = converted.bundle, converted.bundle.spec
    differences = {name: float(f"{found.largest:.2g}") for name, found in converted.differences.items()}
    n_bytes = sum(file.n_bytes for file in spec.files.values())
    if as_json:
        facts = {"bundle": str(bundle.folder), "fingerprint": spec.fingerprint, "bytes": n_bytes, "differences": differences}
        say_json(facts)
        return
    kept = "none, images are opened again" if spec.tokens.keep == "image" else f"{spec.tokens.n_bytes:,} bytes per image"
    where = {"collection": " in the collection", "store": " in a token store", "image": ""}[spec.tokens.keep]
    say(f"{bundle.folder}: {spec.label}, {spec.kind}, {n_bytes / 1e6:,.1f} MB")
    say(f"  image tokens: {kept}{where}")
    say("  largest difference from the checkpoint: " + ", ".join(f"{name} {value:g}" for name, value in differences.items()))
    if (stored := differences.get(WITH_TOKENS, 0.0)) > NOTEWORTHY:
        say(f"  Storing its tokens as int8 moves probabilities by up to {stored:g}: check its ranking.", fg="yellow")
    say(f"  milvus-coop ingest photos/ --bundle {bundle.folder} --collection {_collection(spec.name)}")


def _collection(name: str) -> str:
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return f"b_{plain}" if plain[0].isdigit() else plain
