"""The connection to Milvus; no other package imports pymilvus. A `Store` opens and creates collections; a `Collection` is one."""

from milvus_coop.store.collection import Collection
from milvus_coop.store.layout import Fields
from milvus_coop.store.ranker import Provider, Ranker, RerankService
from milvus_coop.store.schema import CollectionOptions, Index
from milvus_coop.store.store import Store
from milvus_coop.store.transfer import export_rows, load_rows

__all__ = [
    "Collection",
    "CollectionOptions",
    "Fields",
    "Index",
    "Provider",
    "Ranker",
    "RerankService",
    "Store",
    "export_rows",
    "load_rows",
]
