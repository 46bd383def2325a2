"""How the image tokens are laid out: rows of 64 numbers, each kind at a fixed place."""

from __future__ import annotations

EMBEDDING_DIM = 384
TOKEN_DIM = 64
EMBEDDING_ROWS = EMBEDDING_DIM // TOKEN_DIM
CELLS = 16
"""Cells of a 4 x 4 grid over the picture, in reading order."""
REGION_ROWS = CELLS
TAG_ROWS = 8
KEY_DIM = 32
KEY_ROWS = CELLS * KEY_DIM // TOKEN_DIM

EMBEDDING = slice(0, EMBEDDING_ROWS)
"""The image embedding, cut into rows."""
REGIONS = slice(EMBEDDING.stop, EMBEDDING.stop + REGION_ROWS)
"""One row per cell: what the classifier sees there, in the space of the text tokens."""
TAGS = slice(REGIONS.stop, REGIONS.stop + TAG_ROWS)
"""The most probable classes, best first: unit vectors in the same space, times their probability."""
KEYS = slice(TAGS.stop, TAGS.stop + KEY_ROWS)
"""What stands in each cell, for finding where a word's object is: unit vectors of 32 numbers, two cells to a row."""
TOKENS = KEYS.stop
