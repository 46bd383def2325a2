"""Makes what `peers.py` compares with: checkpoints with random weights, bundles of them, images, and filled databases.

    python -m benchmarks.peers_prepare WORK encoding,reranking,search IMAGES ITEMS ...

What is there already is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.ingest import make_photographs
from benchmarks.peers_search import database, fill_ours, fill_plain

K_BLIP = 10
WIDTH, HEIGHT = 640, 480


def make_clip(folder: Path) -> None:
    """CLIP ViT-B/32, and our bundle of it with ViLT as the cross-encoder."""
    from benchmarks.reranking import IMAGES as SAMPLES
    from benchmarks.reranking import QUERIES
    from milvus_coop.models.preprocess.images import decode
    from milvus_coop.offline.convert.bundle import convert
    from milvus_coop.offline.convert.checkpoint import open_checkpoint
    from milvus_coop.offline.convert.parity import Samples
    from tests.convert.checkpoints import clip, vilt

    first, second = (open_checkpoint(make(folder / name, base=True)) for make, name in ((clip, "clip"), (vilt, "vilt")))
    convert(first, second, folder / "clip-bundle", Samples([decode(path) for path in SAMPLES[:4]], QUERIES * 2))


def make_clip_onnx(folder: Path) -> None:
    """The vision tower of CLIP as a graph from pixels to embeddings, in the form that fastembed reads."""
    import shutil

    import torch
    from transformers import CLIPVisionModelWithProjection

    kind: Any = CLIPVisionModelWithProjection
    out = folder / "clip-onnx"
    out.mkdir(exist_ok=True)
    model = kind.from_pretrained(folder / "clip").eval()

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            embeds: torch.Tensor = self.model(pixel_values=pixel_values).image_embeds
            return embeds

    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(
        Tower().eval(),
        (torch.zeros(2, 3, 224, 224),),
        str(out / "model.onnx"),
        input_names=["pixel_values"],
        output_names=["image_embeds"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
    )
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / "clip" / name).exists():
            shutil.copy(folder / "clip" / name, out / "preprocessor_config.json")


def make_blip(folder: Path) -> None:
    """BLIP base, our bundle of it, and a collection of k images."""
    from benchmarks.reranking import prepare

    (folder / "blip").mkdir()
    prepare(folder / "blip", "fp32", K_BLIP)


TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
)
"""The turns of a conversation: a query and a document."""


def make_vlm(folder: Path) -> None:
    """LLaVA with BLIP base's shape: 12 + 12 layers of 768, 384 px, 576 tokens; sentence-transformers has none of BLIP's kind."""
    import transformers
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    from tests.convert.kit import clip_tokenizer

    out = folder / "vlm"
    tokenizer = clip_tokenizer(out)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.pad_token, tokenizer.model_max_length = tokenizer.eos_token, 2048
    text = LlamaConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=len(tokenizer)
    )
    vision = CLIPVisionConfig(image_size=384, patch_size=16)
    kinds: Any = transformers
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    pixels = kinds.CLIPImageProcessorPil(size={"shortest_edge": 384}, crop_size={"height": 384, "width": 384})
    processor = kinds.LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    kinds.LlavaForConditionalGeneration(config).save_pretrained(out)
    processor.save_pretrained(out)


def main(work: str, parts: list[str], images: int, sizes: list[int]) -> None:
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    photos = folder / f"photos-{images}"
    makers: list[tuple[str, Path, Callable[[Path], None]]] = [
        ("encoding", photos, lambda _: make_photographs(photos, images, WIDTH, HEIGHT)),
        ("encoding", folder / "clip-bundle", make_clip),
        ("encoding", folder / "clip-onnx" / "preprocessor_config.json", make_clip_onnx),
        ("reranking", folder / "blip" / "milvus.db", make_blip),
        ("reranking", folder / "vlm" / "processor_config.json", make_vlm),
    ]
    for part, path, make in makers:
        if part in parts and not path.exists():
            print(f"making {path}", file=sys.stderr, flush=True)
            make(folder)
    for items in sizes if "search" in parts else []:
        for name, fill in (("coop", fill_ours), ("plain", fill_plain)):
            path = database(work, items, name)
            done = path.with_suffix(".done")
            if not done.exists():
                print(f"filling {path}", file=sys.stderr, flush=True)
                fill(work, items)
                done.touch()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), [int(argument) for argument in sys.argv[4:]])
