"""The gallery: a search page that the gateway serves, and the same grid as one self-contained file."""

from __future__ import annotations

from milvus_coop.serving.gallery.assets import PAGE, Asset, assets
from milvus_coop.serving.gallery.page import render

__all__ = ["PAGE", "Asset", "assets", "render"]
