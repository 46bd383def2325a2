"""From pictures and texts to rows of a collection: resumable, counted, with flat memory.

items    what a source yields           walk   folders and globs       lists   JSONL, CSV and text files
sources  what a user names              work   one item, one batch     sink    what is asked of a collection
pipeline the three stages, overlapped   run    one whole ingest        coop    the object most users need
"""

from milvus_coop.ingest.coop import CoopIngest
from milvus_coop.ingest.run import ingest
from milvus_coop.ingest.sink import IngestInterrupted, Progress, Sink

__all__ = ["CoopIngest", "IngestInterrupted", "Progress", "Sink", "ingest"]
