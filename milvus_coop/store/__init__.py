"""The connection to Milvus. No other package imports pymilvus.

store       `Store`: opens, creates and drops collections     collection  `Collection`: write rows, and read them as a view
view        `CollectionView`: search and list rows            hits        answers of a search become candidates
schema      the fields of a collection, and its header        layout      the fields of collections of any program
rows        rows as Milvus stores them                        metadata    the metadata that Milvus can hold
address     a folder of Milvus Lite, or a server              connection  every call to Milvus goes through it
failures    errors of Milvus become errors of this package    lite        Milvus Lite servers of this process
handler     the private parts of pymilvus                     own_writes  what this process wrote, and its level of reads
ranker      rerank services that Milvus calls                 token_files, token_store   image tokens in files
aliases     other names of collections                        filters     filters that a caller cannot widen
indexing    builds the index of a filled collection           parquet     rows as the columns of Parquet files
row_folder  a folder of such files, with a manifest           transfer    copies rows between it and a collection
"""

from milvus_coop.store.collection import Collection
from milvus_coop.store.layout import Fields
from milvus_coop.store.ranker import Provider, Ranker, RerankService
from milvus_coop.store.schema import CollectionOptions, Index
from milvus_coop.store.store import Store
from milvus_coop.store.transfer import export_rows, load_rows
from milvus_coop.store.view import CollectionView

__all__ = [
    "Collection",
    "CollectionOptions",
    "CollectionView",
    "Fields",
    "Index",
    "Provider",
    "Ranker",
    "RerankService",
    "Store",
    "export_rows",
    "load_rows",
]
