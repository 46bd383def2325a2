"""Image tokens that are too large for Milvus: files, one per item, in a local folder or an object store.

location   where such a folder may be        keys     which file belongs to which item
files      bytes by name, through fsspec     marker   whose tokens these are
store      `TokenStore`, what others use     sweep    files that no row needs
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
