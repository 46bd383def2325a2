"""Sources of items: what a user names, here or elsewhere.

files      a file that a source names            walk       finds files in folders and globs
remote     listing of object stores              http       http:// and https:// addresses
lists      reads JSONL, CSV and text files       tables     reads Parquet files
shards     reads tar files of WebDataset         documents  sources that are lists, tables and shards
source     images, folders and prefixes          opening    from what the user names to a source
"""

from milvus_coop.ingest.sources.documents import Document, Documents
from milvus_coop.ingest.sources.files import PassedOver, PassOver, Reading
from milvus_coop.ingest.sources.http import Web
from milvus_coop.ingest.sources.opening import check_sources, file_elsewhere, how_to_read, listed, open_sources, read_sources
from milvus_coop.ingest.sources.source import Source

__all__ = [
    "Document",
    "Documents",
    "PassOver",
    "PassedOver",
    "Reading",
    "Source",
    "Web",
    "check_sources",
    "file_elsewhere",
    "how_to_read",
    "listed",
    "open_sources",
    "read_sources",
]
