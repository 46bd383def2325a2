"""An ingest on a Ray cluster: sources are cut into parts, workers ingest them, and a ledger remembers those that are finished.

engine    the driver; of the package, only this module uses Ray
parts     cuts sources into parts           worker    ingests one part with the stages of the local engine
ledger    the finished parts of a job       attempts  finds the item that kills its worker
"""

from milvus_coop.ingest.cluster.engine import ingest_with_ray

__all__ = ["ingest_with_ray"]
