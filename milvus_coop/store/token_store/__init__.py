"""Token files, for image tokens that are too large for Milvus: one file per item, in a local folder or an object store.

store      `TokenStore`, for other modules      keys     names of token files
marker     the file that names the owner        sweep    removes files that no row needs
"""

from milvus_coop.store.token_store.keys import KEY_BYTES, belongs_to, token_key
from milvus_coop.store.token_store.marker import Owner
from milvus_coop.store.token_store.store import TokenStore
from milvus_coop.store.token_store.sweep import HOUR_S, SweepReport, sweep

__all__ = ["HOUR_S", "KEY_BYTES", "Owner", "SweepReport", "TokenStore", "belongs_to", "sweep", "token_key"]
