"""Token files, for image tokens that are too large for Milvus: one file per item, in a local folder or an object store.

location   the address of a token store         keys     names of token files
files      reads and writes files by fsspec     marker   the file that names the owner of a folder
store      `TokenStore`, for other modules      sweep    removes files that no row needs
"""

from milvus_coop.store.token_store.keys import KEY_BYTES, belongs_to, token_key
from milvus_coop.store.token_store.location import Location, parse_location
from milvus_coop.store.token_store.marker import Owner
from milvus_coop.store.token_store.store import TokenStore
from milvus_coop.store.token_store.sweep import HOUR_S, SweepReport, sweep

__all__ = [
    "HOUR_S",
    "KEY_BYTES",
    "Location",
    "Owner",
    "SweepReport",
    "TokenStore",
    "belongs_to",
    "parse_location",
    "sweep",
    "token_key",
]
