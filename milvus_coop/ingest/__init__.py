"""Ingest: images and texts become rows of a collection. It can be resumed, counts its items, and its use of memory does not grow.

items     the items of a source                      images the images of items, wherever they are
sources/  folders, prefixes, files, lists, tables and shards
options   the options of an ingest                   pace   rate and time left
work      reads one item, encodes one batch          sink   the interface of a collection for an ingest
pipeline  the three stages, which run in parallel    run    one whole ingest
counts    the counts so far
coop      `CoopIngest`, the object that most users need
parquet   an ingest into Parquet files               metrics  metrics for Prometheus
cluster/  an ingest on a Ray cluster
"""

from milvus_coop.ingest.cluster import ingest_with_ray
from milvus_coop.ingest.coop import CoopIngest
from milvus_coop.ingest.items import Item
from milvus_coop.ingest.options import IngestOptions
from milvus_coop.ingest.pace import IngestPace, PaceMeter
from milvus_coop.ingest.parquet import ingest_to_parquet
from milvus_coop.ingest.run import ingest, ingest_items
from milvus_coop.ingest.sink import IngestInterrupted, Progress, Sink, StageTime, TooManyFailuresError

__all__ = [
    "CoopIngest",
    "IngestInterrupted",
    "IngestOptions",
    "IngestPace",
    "Item",
    "PaceMeter",
    "Progress",
    "Sink",
    "StageTime",
    "TooManyFailuresError",
    "ingest",
    "ingest_items",
    "ingest_to_parquet",
    "ingest_with_ray",
]
