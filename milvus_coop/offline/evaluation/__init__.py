"""Evaluation as the paper does it, through Milvus: BE, CE, Sep+Coop and Joint+Coop, quality and cost side by side.

corpus     images and texts of a split     protocols  the queries and their pools systems    the four, and bundles
workbench  collections, filled, dropped    rankings   what Milvus returned        memo       texts encoded once
exhaustive every pair                      metrics    one query's figures         bootstrap  confidence intervals
quality    figures of a bundle             cost       times, bytes, ANN recall
gallery    repaired and broken queries     judge      one bundle                  run        `evaluate`
records    the results                     tables, plots, page, page_gallery, page_style: how the results are shown
options    what is evaluated               progress, output: what a run tells, and its files
"""

from milvus_coop.offline.evaluation.bootstrap import Interval
from milvus_coop.offline.evaluation.options import EvaluationOptions
from milvus_coop.offline.evaluation.progress import EvaluationProgress
from milvus_coop.offline.evaluation.records import EvaluationReport, SystemVariant
from milvus_coop.offline.evaluation.run import evaluate
from milvus_coop.offline.evaluation.systems import SYSTEMS, BundleChoice
from milvus_coop.offline.evaluation.tables import TextTable, tables

__all__ = [
    "SYSTEMS",
    "BundleChoice",
    "EvaluationOptions",
    "EvaluationProgress",
    "EvaluationReport",
    "Interval",
    "SystemVariant",
    "TextTable",
    "evaluate",
    "tables",
]
