"""How the image tokens are laid out: rows of 64 numbers, each kind at a fixed place."""

from __future__ import annotations

EMBEDDING_DIM = 384
TOKEN_DIM = 64
EMBEDDING_ROWS = EMBEDDING_DIM // TOKEN_DIM
REGION_ROWS = 16
TAG_ROWS = 8

EMBEDDING = slice(0, EMBEDDING_ROWS)
"""The image embedding, cut into rows."""
REGIONS = slice(EMBEDDING.stop, EMBEDDING.stop + REGION_ROWS)
"""One row per cell of a 4 x 4 grid: what the classifier sees there, in the space of the text tokens."""
TAGS = slice(REGIONS.stop, REGIONS.stop + TAG_ROWS)
"""The most probable classes, best first: unit vectors in the same space, times their probability."""
TOKENS = TAGS.stop
