"""TensorRT plans of a bundle's graphs. They can be checked without a GPU, and are built on the GPU that serves them.

profiles    the shapes that a plan must serve          compiler  a TensorRT library and the GPU that it compiles for
libraries   TensorRT and TensorRT-RTX, if installed    gpu       the GPU of this machine
repository  the sources in a Triton model repository   record    the facts that decide whether a plan must be rebuilt
check       checks that TensorRT accepts the graphs    build     builds the plans of a repository that are out of date
cache       a folder of plans for several builders     materialise  graphs with plain float weights
precision   graphs in half precision
joined      the nodes that let a graph read the requests that Triton joined
"""

from __future__ import annotations

from milvus_coop.serving.plans.build import BuiltPlan, build_plans
from milvus_coop.serving.plans.check import CheckedGraph, check_bundle

__all__ = ["BuiltPlan", "CheckedGraph", "build_plans", "check_bundle"]
