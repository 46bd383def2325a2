"""TensorRT plans of a bundle's graphs: checked without a GPU, built on the GPU that serves them.

profiles    the shapes that a plan must serve          compiler  one TensorRT library, and the GPU it compiles for
libraries   TensorRT and TensorRT-RTX, if installed    gpu       the GPU of this machine
repository  the sources in a Triton model repository   record    what a plan was built from: is it due again?
check       does TensorRT take these graphs?           build     the plans of a repository, only where one is due
cache       plans that outlive their repository
"""

from __future__ import annotations

from milvus_coop.serving.plans.build import BuiltPlan, build_plans
from milvus_coop.serving.plans.check import CheckedGraph, check_bundle, check_repository

__all__ = ["BuiltPlan", "CheckedGraph", "build_plans", "check_bundle", "check_repository"]
