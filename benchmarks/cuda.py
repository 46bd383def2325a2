"""A bundle on an NVIDIA GPU: the outputs compared with those on the CPU, and the time of a run of each graph.

    python benchmarks/cuda.py --out cuda.json                          coop-small, with 64 images made from the examples
    python benchmarks/cuda.py --blip --out cuda.json                   also BLIP base with random weights, and PyTorch on the GPU
    python benchmarks/cuda.py --bundle my-bundle --read cuda.json      `--read` only prints the tables of a result

Needs `onnxruntime-gpu` instead of `onnxruntime`; `--blip` also needs PyTorch with CUDA and transformers. No Milvus is used.
Three ways are compared:

    cpu     the bundle as it is, with ONNX Runtime on all cores        (`--models onnx`)
    cuda    the bundle as it is, with ONNX Runtime on the GPU          (`--models onnx:cuda`)
    half    the fp16 graphs that `triton export --platform tensorrt` writes, with ONNX Runtime on the GPU

A time is the median of the runs that fit into a second, at least three, after one run of each shape that does not count. It
includes the copies to and from the GPU, as in a search.
"""

from __future__ import annotations

import functools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from milvus_coop.bundle import Bundle, BundleSpec, load_bundle  # noqa: E402
from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER  # noqa: E402
from milvus_coop.cores import available_cores  # noqa: E402
from milvus_coop.models.backends.base import check_inputs, run_in_batches  # noqa: E402
from milvus_coop.models.backends.onnx import CPU, OnnxBackend, provider_of  # noqa: E402
from milvus_coop.models.encoder import Encoder  # noqa: E402
from milvus_coop.models.open import open_encoder  # noqa: E402
from milvus_coop.models.preprocess.images import decode  # noqa: E402
from milvus_coop.models.reranker import Reranker  # noqa: E402
from milvus_coop.serving.plans.materialise import materialise  # noqa: E402
from milvus_coop.types import Array  # noqa: E402

IMAGES = sorted((ROOT / "examples" / "images").glob("*.jpg"))
WAYS = ("cpu", "cuda", "half")
SIZES = {TEXT_ENCODER: (1, 64), IMAGE_ENCODER: (1, 16, 64), CROSS_ENCODER: (50, 256)}
"""Batch sizes by graph."""


class HalfBackend:
    """Runs a bundle's fp16 graphs on the GPU."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self._bundle = bundle
        self._sessions = {}
        for graph in bundle.spec.graphs:
            path = materialise(bundle, graph.name, folder / graph.name / "model.onnx", "fp16")
            self._sessions[graph.name] = onnxruntime.InferenceSession(str(path), providers=[provider_of("cuda"), CPU])

    @property
    def spec(self) -> BundleSpec:
        return self._bundle.spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        spec = self.spec.graph(graph)
        names = [tensor.name for tensor in spec.outputs]

        def run_one(part: Mapping[str, Array]) -> dict[str, Array]:
            return dict(zip(names, self._sessions[graph].run(names, dict(part)), strict=True))

        return run_in_batches(spec, inputs, check_inputs(spec, inputs), run_one)

    def load(self, graphs: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        self._sessions.clear()


def images_and_texts(n_images: int, n_texts: int) -> tuple[list[Image.Image], list[str]]:
    """Different crops of the example images, and the words of their first file names."""
    found = []
    for number in range(n_images):
        image = decode(IMAGES[number % len(IMAGES)])
        inset = 1 + 5 * (number // len(IMAGES))
        found.append(image.crop((inset, inset, image.width - inset, image.height - inset)))
    return found, [path.stem.replace("_", " ") for path in IMAGES[:n_texts]]


def median_ms(run: Callable[[], object]) -> float:
    """Milliseconds of one run; see the top of this file."""
    run()
    took: list[float] = []
    while len(took) < 3 or sum(took) < 1.0:
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


def repeated(arrays: Mapping[str, Array], size: int) -> dict[str, Array]:
    """`size` rows, made by repeating the rows of the arrays."""
    return {name: np.ascontiguousarray(np.resize(array, (size, *array.shape[1:]))) for name, array in arrays.items()}


def differences(encoder: Encoder, backends: Mapping[str, Any], images: list[Image.Image], texts: list[str]) -> dict[str, Any]:
    """The largest differences from the CPU. All cross-encoders read what the CPU has encoded, as a search reads what is stored."""
    spec = encoder.spec
    inputs = {TEXT_ENCODER: encoder.tokenise(texts), IMAGE_ENCODER: encoder.pixels(images)}
    stored, asked = encoder.encode_images(images), encoder.encode_texts(texts)
    expected = {graph: backends["cpu"].run(graph, given) for graph, given in inputs.items()}
    probability = Reranker(backends["cpu"]).score_matrix(asked.text_side, stored.image_side).probability
    found: dict[str, Any] = {}
    for name in backends:
        if name == "cpu":
            continue
        here = found[name] = {}
        for graph, given in inputs.items():
            output = "text_embedding" if graph == TEXT_ENCODER else "image_embedding"
            ours = backends[name].run(graph, given)[output]
            here[f"{output}, smallest cosine"] = float((ours * expected[graph][output]).sum(axis=1).min())
        ours = Reranker(backends[name]).score_matrix(asked.text_side, stored.image_side).probability
        here["probability, largest difference"] = float(np.abs(ours - probability).max())
        best = min(10, len(images))
        tops = zip(np.argsort(-ours, axis=1)[:, :best], np.argsort(-probability, axis=1)[:, :best], strict=True)
        here["same images among the best 10"] = float(np.mean([len(set(a) & set(b)) / best for a, b in tops]))
    return {
        "bundle": spec.label,
        "probability, smallest and largest": [float(probability.min()), float(probability.max())],
        **found,
    }


def times(encoder: Encoder, backends: Mapping[str, Any], images: list[Image.Image], texts: list[str]) -> list[dict[str, Any]]:
    """Milliseconds of one run, by graph, batch size and way. The text of a search is the first one."""
    stored, asked = encoder.encode_images(images), encoder.encode_texts(texts[:1])
    tokens = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in stored.image_side.items()}
    inputs = {TEXT_ENCODER: encoder.tokenise(texts), IMAGE_ENCODER: encoder.pixels(images), CROSS_ENCODER: tokens}
    rows = []
    for graph, sizes in SIZES.items():
        for size in sizes:
            batch = repeated(inputs[graph], size) | (dict(asked.text_side) if graph == CROSS_ENCODER else {})
            ms = {name: median_ms(functools.partial(backend.run, graph, batch)) for name, backend in backends.items()}
            rows.append({"graph": graph, "batch": size, "ms": ms})
    return rows


def torch_times(checkpoint: Path, texts: list[str], size: int) -> dict[str, float]:
    """Milliseconds in which PyTorch on the GPU scores one text with `size` images by BLIP: from pixels, and from patch states."""
    import torch
    import transformers

    kind: Any = transformers.BlipForImageTextRetrieval
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(checkpoint)
    words = tokenizer([texts[0]] * size, return_tensors="pt")
    found = {}
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        model = kind.from_pretrained(checkpoint).eval().to("cuda", dtype)
        pixels = torch.rand(size, 3, 384, 384, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
        given = {key: words[key].to("cuda") for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            states = model.vision_model(pixel_values=pixels).last_hidden_state
            mask = torch.ones(states.shape[:2], dtype=torch.int64, device="cuda")

            def from_pixels(model: Any = model, pixels: Any = pixels, given: Any = given) -> Any:
                return model(pixel_values=pixels, **given).itm_score.softmax(-1).cpu()

            def from_states(model: Any = model, states: Any = states, mask: Any = mask, given: Any = given) -> Any:
                read = model.text_encoder(**given, encoder_hidden_states=states, encoder_attention_mask=mask).last_hidden_state
                return model.itm_head(read[:, 0]).softmax(-1).cpu()

            found[f"{name}, from pixels"] = median_ms(from_pixels)
            found[f"{name}, from states in the GPU's memory"] = median_ms(from_states)
        del model, pixels, states
        torch.cuda.empty_cache()
    return found


def measure(bundle: Bundle, folder: Path, sizes: tuple[int, int], ways: Sequence[str]) -> dict[str, Any]:
    """Compare one bundle with the CPU, and time it in these ways, with so many images and texts."""
    cpu = OnnxBackend(bundle)
    backends: dict[str, Any] = {"cpu": cpu}
    if "cuda" in ways:
        backends["cuda"] = OnnxBackend(bundle, providers=(provider_of("cuda"), CPU))
    if "half" in ways:
        backends["half"] = HalfBackend(bundle, folder)
    images, texts = images_and_texts(*sizes)
    encoder = open_encoder(bundle, cpu)
    found = differences(encoder, backends, images, texts)
    return {"differences": found, "times": times(encoder, {way: backends[way] for way in ways}, images, texts)}


def blip_base(folder: Path) -> tuple[Path, Bundle]:
    """BLIP base with random weights, and its bundle."""
    from milvus_coop.offline.convert.bundle import convert
    from milvus_coop.offline.convert.checkpoint import open_checkpoint
    from milvus_coop.offline.convert.parity import Samples
    from tests.convert.checkpoints import blip

    images, texts = images_and_texts(4, 4)
    checkpoint = blip(folder / "checkpoint", base=True)
    one = open_checkpoint(checkpoint)
    return checkpoint, convert(one, one, folder / "bundle", Samples(images, texts)).bundle


def show(result: Mapping[str, Any]) -> None:
    print(f"{result['gpu']}, {result['cores']} cores, onnxruntime {result['onnxruntime']}, Python {result['python']}")
    for name, facts in result["bundles"].items():
        print(f"\n{name}: {facts['differences']['bundle']}")
        low, high = facts["differences"]["probability, smallest and largest"]
        print(f"  probabilities on the CPU from {low:.4f} to {high:.4f}")
        for way in (way for way in WAYS if way in facts["differences"]):
            found = ", ".join(f"{key} {value:.6f}" for key, value in facts["differences"][way].items())
            print(f"  {way} against cpu: {found}")
        heads = "".join(f"{way + ', ms':>12}" for way in WAYS)
        print(f"  {'graph':<16}{'batch':>6}{heads}{'rows/s, best':>15}")
        for row in facts["times"]:
            ms = row["ms"]
            cells = "".join(f"{ms[way]:>12.2f}" if way in ms else f"{'-':>12}" for way in WAYS)
            print(f"  {row['graph']:<16}{row['batch']:>6}{cells}{1000 * row['batch'] / min(ms.values()):>15,.0f}")
        for key, value in facts.get("torch", {}).items():
            print(f"  PyTorch on the GPU, 50 pairs, {key}: {value:.2f} ms")


def gpu_name() -> str:
    from milvus_coop.serving.plans.gpu import find_gpu

    gpu = find_gpu()
    return f"{gpu.name} (compute capability {gpu.compute_capability})"


@click.command()
@click.option("--bundle", "names", multiple=True, help="A bundle, by name or folder; repeatable. [default: coop-small]")
@click.option("--blip", "with_blip", is_flag=True, help="Also BLIP base with random weights, and PyTorch.")
@click.option("--images", default=64, show_default=True, help="Number of images that are compared.")
@click.option("--texts", default=16, show_default=True, help="Number of texts that are compared with each image.")
@click.option(
    "--way", "ways", multiple=True, type=click.Choice(WAYS), help="Only this way; repeatable. The CPU is always compared."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the result as JSON.")
@click.option("--read", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Only print this result.")
def main(
    names: tuple[str, ...], with_blip: bool, images: int, texts: int, ways: tuple[str, ...], out: Path | None, read: Path | None
) -> None:
    """Measure a bundle on a GPU; see the top of this file."""
    if read:
        show(json.loads(read.read_text()))
        return
    sizes, asked = (images, texts), ways or WAYS
    result: dict[str, Any] = {
        "gpu": gpu_name(),
        "cores": available_cores(),
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "bundles": {},
    }
    with ExitStack() as stack:
        for name in names or ("coop-small",):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milvus-coop-cuda-")))
            result["bundles"][name] = measure(load_bundle(name), folder, sizes, asked)
            if out:
                out.write_text(json.dumps(result, indent=1))
        if with_blip:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milvus-coop-cuda-")))
            checkpoint, bundle = blip_base(folder)
            result["bundles"]["blip"] = measure(bundle, folder / "half", sizes, asked)
            result["bundles"]["blip"]["torch"] = torch_times(checkpoint, images_and_texts(1, 1)[1], 50)
            if out:
                out.write_text(json.dumps(result, indent=1))
    show(result)


if __name__ == "__main__":
    main()
