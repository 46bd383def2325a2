"""The gallery: a search page that the gateway serves, and a search result saved as one self-contained HTML file."""

from __future__ import annotations

from milvus_coop.serving.gallery.assets import PAGE, Asset, assets
from milvus_coop.serving.gallery.page import render

__all__ = ["PAGE", "Asset", "assets", "render"]
