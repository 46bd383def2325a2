"""Builds the plans of a Triton model repository on the machine that will run them. Only plans that are out of date are built."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from milvus_coop.bundle.files import hash_file
from milvus_coop.bundle.spec import GraphSpec
from milvus_coop.bundle.wire import served_graph
from milvus_coop.serving.plans.cache import entry_of, keep, take
from milvus_coop.serving.plans.compiler import Compiler
from milvus_coop.serving.plans.libraries import open_tensorrt
from milvus_coop.serving.plans.profiles import Profile, served_profile
from milvus_coop.serving.plans.record import PlanRecord, why_due
from milvus_coop.serving.plans.repository import Repository, read_repository


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """One plan of the repository in its present state."""

    graph: str
    path: Path
    reason: str | None
    """The reason why it was built; None if the old plan is up to date."""
    compiler: str
    """Name and version of the compiler, for example `tensorrt 11.4.0.106`."""
    gpu: str
    plan_bytes: int
    layers: int
    build_s: float
    """Duration of the build that made the plan, in this call or earlier, in seconds."""


def build_plans(
    folder: Path,
    *,
    force: bool = False,
    cache: Path | None = None,
    compiler: Compiler | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[BuiltPlan, ...]:
    """Build `<graph>/<version>/model.plan` for every graph of a repository, with its record `plan.json` and a shared timing cache.

    A plan is built if it is missing, damaged, or was made from another graph, by another TensorRT, for another GPU or other shapes.
    A plan runs only on the same kind of GPU and with the same version of TensorRT, so build it inside the Triton image that serves
    it.

    Args:
        folder: a repository from `milvus-coop triton export --platform tensorrt`.
        force: build all plans, even those that are up to date.
        cache: a folder from which plans are copied instead of built, and to which new plans are added; see `plans.cache`.
        compiler: the compiler to use; default TensorRT for this machine's GPU.
        on_progress: a function that is called with the plan that is being built and the reason.

    Raises:
        PlanError: TensorRT is not installed, there is no GPU, TensorRT rejects a graph, the folder is not such a repository, or the
            cache cannot be written to.
    """
    repository = read_repository(folder)
    compiler = compiler or open_tensorrt()
    return tuple(_build(repository, graph, compiler, force, cache, on_progress) for graph in repository.spec.graphs)


def _build(
    repository: Repository,
    graph: GraphSpec,
    compiler: Compiler,
    force: bool,
    cache: Path | None,
    on_progress: Callable[[str], None] | None,
) -> BuiltPlan:
    path, profile = repository.plan(graph), served_profile(repository.spec, graph.name)
    facts = _facts(repository, graph, compiler, profile)
    entry = None if cache is None else entry_of(cache, graph.name, facts)
    record = PlanRecord.read(repository.record(graph))
    reason = "asked to" if force else why_due(facts, path, record)
    if reason and entry and not force and take(entry, facts, path, repository.record(graph)):
        record, reason = PlanRecord.read(repository.record(graph)), None
    if on_progress:
        on_progress(f"{graph.name}: {f'building, since {reason}' if reason else 'up to date'}")
    if reason or record is None:
        record = _compile(repository, graph, compiler, profile, facts)
        if entry:
            keep(entry, path, repository.record(graph))
    return BuiltPlan(graph.name, path, reason, compiler.version, compiler.gpu, record.plan_bytes, record.layers, record.build_s)


def _compile(repository: Repository, graph: GraphSpec, compiler: Compiler, profile: Profile, facts: dict[str, str]) -> PlanRecord:
    plan = compiler.compile(repository.source(graph), served_graph(graph), profile, timing_cache=repository.timings)
    record = PlanRecord(facts, len(plan.content), plan.layers, round(plan.build_s, 3))
    path = repository.plan(graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # two builders may share the folder
    unfinished.write_bytes(plan.content)
    repository.record(graph).unlink(missing_ok=True)  # if the process is killed after this line, the plan is built again
    unfinished.replace(path)  # a server that is starting sees the old plan or the new one
    record.write(repository.record(graph))
    return record


def _facts(repository: Repository, graph: GraphSpec, compiler: Compiler, profile: Profile) -> dict[str, str]:
    """The facts that a plan depends on; `why_due` names the first one that differs."""
    source = repository.source(graph)
    files = sorted(source.parent.glob(f"{source.name}*"))  # the weights of large graphs are in files beside it
    return {
        "bundle": f"{repository.spec.label} {repository.spec.fingerprint}",
        "precision": repository.precision,
        "graph": " ".join(hash_file(file).sha256 for file in files),
        "TensorRT": compiler.version,
        "compute capability": compiler.compute_capability,
        "GPU": compiler.gpu,
        "shapes": str(profile),
    }
