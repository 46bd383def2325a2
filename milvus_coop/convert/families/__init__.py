"""The families, and which of them a checkpoint belongs to. A new one is a file here, a line below, and a test."""

from __future__ import annotations

from milvus_coop.convert.checkpoint import Checkpoint
from milvus_coop.convert.families.blip import BLIP
from milvus_coop.convert.families.blip2 import BLIP2
from milvus_coop.convert.families.bridgetower import BRIDGETOWER
from milvus_coop.convert.families.clip import CLIP
from milvus_coop.convert.families.siglip import SIGLIP
from milvus_coop.convert.families.vilt import VILT
from milvus_coop.convert.family import Family, Source
from milvus_coop.errors import ConvertError

FAMILIES: tuple[Family, ...] = (BLIP, CLIP, SIGLIP, BLIP2, VILT, BRIDGETOWER)


def open_source(checkpoint: Checkpoint) -> Source:
    """Open a checkpoint in the roles that its family offers.

    Raises:
        ConvertError: no family knows this kind of checkpoint, or it cannot be loaded.
    """
    for family in FAMILIES:
        if checkpoint.model_type in family.model_types:
            return family.open(family, checkpoint)
    known = ", ".join(kind for family in FAMILIES for kind in family.model_types)
    raise ConvertError(
        f"{checkpoint.name} is of the kind '{checkpoint.model_type}'", expected=f"one of {known}", run="milvus-coop bundle models"
    )
