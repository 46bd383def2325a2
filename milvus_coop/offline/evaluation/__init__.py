"""Evaluation as the paper does it, through Milvus: BE, CE, Sep+Coop and Joint+Coop, quality and cost side by side.

corpus     images and texts of a split     protocols  the queries and their pools systems    the four, and bundles
workbench  collections, filled, dropped    rankings   what Milvus returned        memo       texts encoded once
exhaustive every pair                      metrics    one query's figures         bootstrap  confidence intervals
quality    figures of a bundle             cost       times, bytes, ANN recall    growth     in larger pools
gallery    repaired and broken queries     judge      one bundle                  run        `evaluate`
records    the results                     tables, plots, page: how the results are shown
"""

from milvus_coop.offline.evaluation.bootstrap import Interval
from milvus_coop.offline.evaluation.options import Options
from milvus_coop.offline.evaluation.progress import Progress
from milvus_coop.offline.evaluation.records import Contestant, EvaluationReport
from milvus_coop.offline.evaluation.run import evaluate
from milvus_coop.offline.evaluation.systems import SYSTEMS, Contender
from milvus_coop.offline.evaluation.tables import TextTable, tables

__all__ = [
    "SYSTEMS",
    "Contender",
    "Contestant",
    "EvaluationReport",
    "Interval",
    "Options",
    "Progress",
    "TextTable",
    "evaluate",
    "tables",
]
