"""`milvus-coop triton`: serve a bundle from Triton."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

import click

from milvus_coop.cli.lines import say
from milvus_coop.cli.outputs import check_folder
from milvus_coop.config import PREFIX, Settings

_bundle = click.option(
    "--bundle",
    default=lambda: Settings.from_env().bundle,
    help=f"Name or folder of the bundle. [default coop-small; {PREFIX}BUNDLE]",
)


@click.group()
def triton() -> None:
    """Serve a bundle from Triton Inference Server.

    \b
    Examples:
      milvus-coop triton serve                          a server on this machine, without a GPU
      milvus-coop query "a dog" --models triton://localhost:8001
      milvus-coop triton export --platform tensorrt --out models/
    """


@triton.command()
@_bundle
@click.option(
    "--platform", type=click.Choice(["tensorrt", "onnxruntime", "python"]), required=True, help="How Triton runs the graphs."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the new repository.")
@click.option(
    "--precision", type=click.Choice(["fp16", "fp32"]), default="fp16", show_default=True, help="Precision of graphs on GPUs."
)
@click.option("--gpu", is_flag=True, help="onnxruntime: run on GPUs, with the TensorRT accelerator.")
@click.option("--instances", type=click.IntRange(1, 1024), default=2, show_default=True, help="Copies of each model.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads per instance, on CPUs.")
@click.option("--cuda-graphs", is_flag=True, help="tensorrt: use CUDA graphs.")
@click.option(
    "--plan", "plans", multiple=True, metavar="CAPABILITY=FILE", help="tensorrt: plan for one kind of GPU, such as 8.9=sm89.plan."
)
def export(
    bundle: str,
    platform: str,
    out: Path,
    precision: str,
    gpu: bool,
    instances: int,
    threads: int,
    cuda_graphs: bool,
    plans: tuple[str, ...],
) -> None:
    """Write a model repository with the text encoder, the image encoder and the cross-encoder.

    `python` runs anywhere Triton's Python backend has ONNX Runtime; `onnxruntime` is Triton's own ONNX backend; `tensorrt` needs
    `triton build-plans` on the GPU that will run it.

    \b
    Examples:
      milvus-coop triton export --platform python --out models/
      milvus-coop triton export --platform tensorrt --out models/ && milvus-coop triton build-plans models/
    """
    from typing import get_args

    from milvus_coop.bundle import load_bundle
    from milvus_coop.errors import InvalidArgumentError
    from milvus_coop.serving.triton import Platform, Tuning, export_repository
    from milvus_coop.serving.triton.repository import Precision

    if bad := [plan for plan in plans if "=" not in plan]:
        raise InvalidArgumentError(f"--plan is '{bad[0]}'", expected="CAPABILITY=FILE, such as 8.9=sm89.plan")
    files = dict(plan.split("=", 1) for plan in plans)
    check_folder(out)
    tuning = Tuning(instances=instances, threads=threads, gpu=gpu, cuda_graphs=cuda_graphs, plans_by_capability=files)
    chosen: Platform = next(p for p in get_args(Platform) if p == platform)
    exact: Precision = next(p for p in get_args(Precision) if p == precision)
    opened = load_bundle(bundle)
    export_repository(opened, out, chosen, tuning=tuning, precision=exact)
    say(f"{out}: {opened.spec.label} for Triton's {platform} platform", err=True)
    if platform == "tensorrt":
        say(f"Now, on the GPU that will run it: milvus-coop triton build-plans {out}", err=True)


@triton.command("build-plans")
@click.argument("repository", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--force", is_flag=True, help="Also build plans that are up to date.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder from which existing plans are taken and in which new ones are kept.",
)
def build_plans_(repository: Path, force: bool, cache: Path | None) -> None:
    """Build the TensorRT plans of REPOSITORY for the GPU of this machine, if they are missing or no longer fit.

    Run it in the image that serves the plans: they fit only that TensorRT version and that kind of GPU. A cache has a place for
    each of them, so machines with different GPUs can share one.

    \b
    Examples:
      milvus-coop triton export --platform tensorrt --out models/ && milvus-coop triton build-plans models/
      milvus-coop triton build-plans models/ --cache /shared/plans
    """
    from milvus_coop.serving.plans import build_plans

    check_folder(repository)
    check_folder(cache)
    for plan in build_plans(repository, force=force, cache=cache, on_progress=lambda line: say(line, err=True)):
        state = "built" if plan.reason else "up to date"
        facts = f"{plan.layers} layers, {plan.plan_bytes / 1e6:.1f} MB, {plan.build_s:.1f} s, {plan.compiler}, {plan.gpu}"
        say(plan.graph, state, facts)


@triton.command("check-plans")
@_bundle
@click.option("--target", default="SM89", show_default=True, help="Compute capability to compile for.")
def check_plans(bundle: str, target: str) -> None:
    """Check that TensorRT takes a bundle's graphs, in fp32 and fp16, without a GPU.

    TensorRT-RTX parses and compiles them, with the shapes that Triton will serve. Nothing is run, and the plans are deleted.

    \b
    Example:
      milvus-coop triton check-plans
    """
    from milvus_coop.bundle import load_bundle
    from milvus_coop.serving.plans import check_bundle

    for graph in check_bundle(load_bundle(bundle), target=target, on_progress=lambda line: say(line, err=True)):
        facts = f"{graph.layers} layers, {graph.source_bytes / 1e6:.1f} MB -> {graph.plan_bytes / 1e6:.1f} MB"
        seconds = f"{graph.parse_s:.1f} + {graph.build_s:.1f} s"
        say(graph.graph, graph.precision, f"ok for {graph.target}", facts, seconds)


@triton.command()
@_bundle
@click.option("--repository", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Repository to serve unchanged.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address or name; other machines need another one.")
@click.option("--port", type=click.IntRange(1, 65535), default=8001, show_default=True, help="Port of gRPC, which --models uses.")
@click.option("--http-port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port of HTTP and health checks.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), default=8002, show_default=True, help="Port of Prometheus metrics.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads per model.")
@click.argument("arguments", nargs=-1)
def serve(
    bundle: str,
    repository: Path | None,
    host: str,
    port: int,
    http_port: int,
    metrics_port: int,
    threads: int,
    arguments: tuple[str, ...],
) -> None:
    """Run Triton on this machine until Ctrl-C, with the bundle's models on the CPU (platform `python`).

    It uses the tritonserver on the PATH, as in NVIDIA's container. If there is none, it first installs one from a Python wheel into
    the cache folder (Linux on x86_64, about 500 MB, once). Arguments after `--` go to tritonserver.

    \b
    Examples:
      milvus-coop triton serve
      milvus-coop triton serve --port 9001 --http-port 9000 --metrics-port 9002
      milvus-coop triton serve --repository models/ -- --log-verbose=1
    """
    from milvus_coop.bundle import load_bundle
    from milvus_coop.cores import thread_count
    from milvus_coop.serving.triton import Endpoints, TritonServer, Tuning, export_repository, find_triton

    def report(line: str) -> None:
        say(line, err=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop by a service manager works like Ctrl-C
    with tempfile.TemporaryDirectory(prefix="milvus-coop-triton-") as folder:
        install = find_triton(on_progress=report)
        served = repository or export_repository(
            load_bundle(bundle), Path(folder, "models"), "python", tuning=Tuning(threads=thread_count(threads))
        )
        endpoints = Endpoints(host, port, http_port, metrics_port)
        shown = endpoints.url_host
        server = TritonServer(install, served, endpoints=endpoints, arguments=arguments, on_problem=report)
        try:
            with server:
                report(f"Triton is ready. Models: --models triton://{shown}:{port}")
                report(f"HTTP: http://{shown}:{http_port}/v2  metrics: http://{shown}:{metrics_port}/metrics  Ctrl-C stops.")
                code = server.wait()
        except KeyboardInterrupt:
            report("Stopped.")
            return
    report(f"Triton ended by itself with exit code {code}.")
    sys.exit(1)


@triton.command()
def install() -> None:
    """Install Triton from a Python wheel into the cache folder, if there is none on the PATH."""
    from milvus_coop.serving.triton import find_triton

    found = find_triton(on_progress=lambda line: say(line, err=True))
    say(str(found.binary))
