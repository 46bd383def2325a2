"""Embeddings and match probabilities of any texts and images, without a database.

inputs   checks the texts and images that a user gives
reader   reads images in batches and decodes them in threads
coop     `CoopModel`, the object that users need
"""

from milvus_coop.models.scoring.coop import Comparison, CoopModel
from milvus_coop.models.scoring.inputs import OnError

__all__ = ["Comparison", "CoopModel", "OnError"]
