"""The README.md of a converted bundle: its origin, its differences from the checkpoint, and its sizes."""

from __future__ import annotations

from collections.abc import Mapping

from milvus_coop.bundle.folder import Bundle
from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.offline.convert.graphs import GraphPrecision
from milvus_coop.offline.export.parity import Difference

_KEPT = {
    "collection": "in the collection, beside the embedding",
    "store": "in a token store, one file per image",
    "nowhere": "nowhere: the image is opened again for every query, and the vision tower runs for every pair",
}


def write_card(bundle: Bundle, precision: GraphPrecision, differences: Mapping[str, Difference], *, pooled: bool) -> None:
    """Write README.md into the bundle's folder."""
    spec = bundle.spec
    lines = [
        f"# {spec.name} {spec.version}",
        "",
        "Converted by `milvus-coop bundle convert` from",
        "",
        *(f"- {role}: {_origin(facts)}" for role, facts in spec.lineage.items() if isinstance(facts, Mapping)),
        "",
        f"Licence: {spec.licence or 'not stated by the checkpoint; ask its authors'}.",
        "",
        f"- {spec.kind} model, graphs in {precision}, {sum(f.n_bytes for f in spec.files.values()) / 1e6:,.1f} MB",
        f"- embeddings of {spec.dim} numbers; texts of up to {spec.text.max_length} tokens; images at {spec.image.size} px",
        f"- the cross-encoder's view of an image is kept {_KEPT[spec.tokens.keep]}{_bytes(spec)}",
        f"- ranks by {'match logit + cosine' if spec.score == 'sum' else 'the match probability'}, unless a query says otherwise",
    ]
    if pooled:
        lines.append(
            "- image tokens are average-pooled, which the cross-encoder never saw: it needs fine-tuning to keep its quality"
        )
    if precision == "int8":
        lines.append("- for ONNX Runtime on CPUs: TensorRT does not take these graphs")
    lines += [
        "",
        "How far the graphs are from the checkpoint's own forward pass, on sample images and texts (image tokens in units of",
        "their largest value):",
        "",
        "| output | largest difference | smallest cosine |",
        "|---|---|---|",
        *(f"| {name} | {found.largest:.2g} | {found.smallest_cosine:.6f} |" for name, found in differences.items()),
        "",
    ]
    (bundle.folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _origin(facts: Mapping[str, object]) -> str:
    revision = f", revision {facts['revision']}" if facts.get("revision") else ""
    return f"{facts['name']} ({facts['model_type']}{revision}; licence: {facts['licence'] or 'not stated'})"


def _bytes(spec: BundleSpec) -> str:
    return (
        ""
        if spec.tokens.keep == "nowhere"
        else f": {spec.tokens.count} x {spec.tokens.dim} int8, {spec.tokens.n_bytes:,} bytes per image"
    )
