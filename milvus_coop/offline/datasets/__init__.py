"""Captioned images to train on and to evaluate with: published formats, and your own lists."""

from milvus_coop.offline.datasets.items import SPLITS, Caption, CaptionedImage, DataProblem, Dataset, Split
from milvus_coop.offline.datasets.open import FORMATS, check, open_dataset

__all__ = ["FORMATS", "SPLITS", "Caption", "CaptionedImage", "DataProblem", "Dataset", "Split", "check", "open_dataset"]
