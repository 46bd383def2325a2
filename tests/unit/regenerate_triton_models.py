"""Writes triton_models/, the shipped bundle's configurations: `python -m tests.unit.regenerate_triton_models`."""

from __future__ import annotations

import shutil
from pathlib import Path

from milvus_coop.bundle import Bundle, load_bundle
from milvus_coop.serving.triton.config import PLATFORMS, Tuning, model_config

FOLDER = Path(__file__).parent.parent.parent / "triton_models"


def generated(bundle: Bundle) -> dict[str, str]:
    """The text of every configuration, by its path below `FOLDER`."""
    return {
        f"{platform}/{graph.name}/config.pbtxt": model_config(bundle.spec, graph, platform, Tuning())
        for platform in PLATFORMS
        for graph in bundle.spec.graphs
    }


def main() -> None:
    """Replace the three platforms' folders; the README stays."""
    for platform in PLATFORMS:
        shutil.rmtree(FOLDER / platform, ignore_errors=True)
    for name, text in generated(load_bundle("coop-small")).items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
