"""The families, and the choice of a checkpoint's family. A new family needs a file here, a line below, a record in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable

from milvus_coop.errors import ConvertError
from milvus_coop.offline.convert.catalogue import (
    ALTCLIP,
    BLIP,
    BLIP2,
    BRIDGETOWER,
    CHINESE_CLIP,
    CLIP,
    FAMILIES,
    METACLIP2,
    NAFLEX,
    QWEN3_VL_EMBEDDING,
    QWEN3_VL_RERANKER,
    SIGLIP,
    VILT,
    Family,
    Role,
)
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.families.blip import open_blip
from milvus_coop.offline.convert.families.blip2 import open_blip2
from milvus_coop.offline.convert.families.bridgetower import open_bridgetower
from milvus_coop.offline.convert.families.clip import open_altclip, open_chinese_clip, open_clip, open_metaclip2
from milvus_coop.offline.convert.families.naflex import open_naflex
from milvus_coop.offline.convert.families.qwen3_vl import open_qwen3_embedding, open_qwen3_reranker
from milvus_coop.offline.convert.families.siglip import open_siglip
from milvus_coop.offline.convert.families.vilt import open_vilt
from milvus_coop.offline.convert.family import CheckpointSource, Wishes

_OPENERS: dict[Family, Callable[..., CheckpointSource]] = {
    BLIP: open_blip,
    CLIP: open_clip,
    METACLIP2: open_metaclip2,
    ALTCLIP: open_altclip,
    CHINESE_CLIP: open_chinese_clip,
    SIGLIP: open_siglip,
    NAFLEX: open_naflex,
    BLIP2: open_blip2,
    VILT: open_vilt,
    BRIDGETOWER: open_bridgetower,
    QWEN3_VL_EMBEDDING: open_qwen3_embedding,
    QWEN3_VL_RERANKER: open_qwen3_reranker,
}
"""A function for each family. Those of families with wishes take them after the checkpoint."""


def open_source(checkpoint: Checkpoint, role: Role = "joint", wishes: Wishes | None = None) -> CheckpointSource:
    """Open a checkpoint in the roles that its family offers.

    Args:
        checkpoint: the checkpoint.
        role: the role that it shall have. It decides between families of the same kind of model.
        wishes: what the user asks of the family; those that it cannot meet are ignored.

    Raises:
        ConvertError: no family knows this kind of checkpoint, or it cannot be loaded.
    """
    if found := [family for family in FAMILIES if checkpoint.model_type in family.model_types]:
        family = next((family for family in found if family.role == role), found[0])
        return _OPENERS[family](checkpoint, wishes or Wishes()) if family.wishes else _OPENERS[family](checkpoint)
    known = ", ".join(kind for family in FAMILIES for kind in family.model_types)
    raise ConvertError(
        f"{checkpoint.name} is of the kind '{checkpoint.model_type}'", expected=f"one of {known}", run="milvus-coop bundle models"
    )
