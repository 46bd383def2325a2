"""Captioned images to train on and to evaluate with: published formats, your own lists, and generated scenes."""

from milvus_coop.datasets.items import SPLITS, Caption, Dataset, Item, Problem, Split

__all__ = ["SPLITS", "Caption", "Dataset", "Item", "Problem", "Split"]
