"""Embeddings and match probabilities of any texts and images, without a database.

inputs   what a user gives as texts and as images, checked
reader   images, a batch at a time: decoded in threads
coop     the object that users need
"""

from milvus_coop.models.scoring.coop import Comparison, CoopModel
from milvus_coop.models.scoring.inputs import ImageLike, OnError

__all__ = ["Comparison", "CoopModel", "ImageLike", "OnError"]
