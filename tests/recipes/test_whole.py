"""The training of whole towers: its parts, its random changes, and a few steps of it on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from milvus_coop.bundle.spec import TextSpec
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.offline.training.efficientnet_lite import EfficientNetLite
from milvus_coop.types import Array
from recipes.coop_small import whole
from recipes.coop_small.__main__ import SHIPPED
from recipes.coop_small.backbone import left_out
from recipes.coop_small.features import Captioned
from recipes.coop_small.minilm import MiniLM
from recipes.coop_small.parts import Packed, load_parts, save_in_parts, unpack, write_parts
from recipes.coop_small.texts import TRAINED_LENGTH
from recipes.coop_small.train import Chooser, TrainRecipe, drawing_source, photo_source
from recipes.coop_small.whole import Trainer, WholeRecipe, changed, load_whole_state, new_towers, whole_state

TINY = TrainRecipe(epochs=1, photos=3, captions=2, drawings=2, word_images=3, hidden=32, dropped_words=0.3, dropped_blocks=0.3)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs and four drawings with random towers, in parts."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    groups = {
        "photos_train": [_image(folder / f"p{n}.jpg", (f"a dog {n}", "two dogs run"), (224, 224), n) for n in range(6)],
        "photos_dev": [_image(folder / "d.jpg", ("a cat",), (300, 200), 7)],
        "drawings_train": [_image(folder / f"w{n}.png", ("A frog.", "frog"), (90, 120), n) for n in range(4)],
    }
    tokenizer = Tokenizer(SHIPPED / "tokenizer.json", TextSpec(max_length=TRAINED_LENGTH))
    vectors = functional.normalize(torch.randn(1000, 384), dim=1)
    write_parts(folder / "parts", groups, tokenizer, EfficientNetLite("lite0").state_dict(), MiniLM().state_dict(), vectors)
    return folder / "parts"


@pytest.fixture(scope="module")
def packed(parts: Path) -> Packed:
    return unpack(parts)


def _image(path: Path, texts: tuple[str, ...], size: tuple[int, int], colour: int) -> Captioned:
    Image.new("RGB", size, (40 * colour % 256, 90, 200)).save(path)
    return Captioned(path, "photos" if path.suffix == ".jpg" else "stamps", texts, "train")


def test_parts_give_back_images_and_texts_in_order(packed: Packed) -> None:
    assert {name: tuple(pixels.shape) for name, pixels in packed.pixels.items()} == {
        "photos_train": (6, 3, 224, 224),
        "photos_dev": (1, 3, 224, 224),
        "drawings_train": (4, 3, 224, 224),
    }
    reds = [int(pixels[0, 112, 112]) for pixels in packed.pixels["photos_train"]]
    assert np.abs(np.array(reds) - 40 * np.arange(6) % 256).max() <= 3  # a lossy format
    assert [item.texts for item in packed.items["drawings_train"]] == [("A frog.", "frog")] * 4
    assert packed.texts == [*dict.fromkeys(text for items in packed.items.values() for item in items for text in item.texts)]
    assert packed.ids.shape == (len(packed.texts), TRAINED_LENGTH)


def test_changed_images_keep_shape_and_range() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    found = changed(pixels, 0.3)
    assert found.shape == pixels.shape
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 255
    assert not torch.equal(changed(pixels, 0.3), found)


def test_a_block_that_is_left_out_keeps_the_mean() -> None:
    class Block:
        residual = True

    before, after = torch.zeros(20_000, 1, 1, 1), torch.ones(20_000, 1, 1, 1)
    assert left_out(Block(), before, after, 0.0) is after
    torch.manual_seed(0)
    found = left_out(Block(), before, after, 0.25)
    assert sorted(set(found.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)


def test_a_choice_ignores_images_that_share_a_label_or_a_text(packed: Packed) -> None:
    row = {text: number for number, text in enumerate(packed.texts)}

    def rows(texts: Sequence[str]) -> Array:
        return np.array([row[text] for text in texts])

    photos = photo_source(packed.items["photos_train"], None, rows)
    drawings = drawing_source(packed.items["drawings_train"], None, rows, {})
    choice = Chooser(photos, drawings, TINY).next()
    texts = [packed.texts[number] for number in choice.rows]
    said = [set(packed.items["photos_train"][number].texts) for number in choice.photos] + [{"frog"}] * len(choice.drawings)
    for text, owner, ignored in zip(texts, choice.owner, choice.ignored, strict=True):
        for image in range(len(said)):
            shares = "frog" in text.lower() and said[image] == {"frog"}
            if image < len(choice.photos):  # only a text of another image that was chosen for it too counts
                shares = text in said[image] and any(
                    other == text and of == image for other, of in zip(texts, choice.owner, strict=True)
                )
            assert ignored[image] == (shares and image != owner)


def test_whole_towers_learn_and_come_back_from_parts(packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "KEEP_EVERY", 1)
    recipe = WholeRecipe(heads=TINY, towers=TINY, remembered=2)
    trainer = Trainer(packed, recipe, "cpu")
    trainer.prepare_heads()
    before = whole_state(trainer.towers)
    trainer.train(TINY, whole=False)
    middle = whole_state(trainer.towers)
    kept: list[dict[str, torch.Tensor]] = []
    trainer.train(TINY, whole=True, keep=lambda: kept.append(whole_state(trainer.towers)))
    assert len(kept) == TINY.epochs
    after = whole_state(trainer.towers)
    lower = [name for name in after if name.startswith("lower_")]
    assert all(torch.equal(before[name], middle[name]) for name in lower)
    assert any(not torch.equal(middle[name], after[name]) for name in lower if name.startswith("lower_image.blocks.7"))
    assert any(not torch.equal(middle[name], after[name]) for name in lower if name.startswith("lower_text.layers.0"))
    assert set(trainer.judge("dev")) == {"photos_dev", "photos_dev, hubs"}
    save_in_parts(after, tmp_path, largest=10_000_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    other = new_towers(packed, TINY)
    load_whole_state(other, load_parts(tmp_path))
    trainer.towers, towers = other.eval(), trainer.towers
    found = trainer.see(packed.pixels["photos_dev"]).heads
    trainer.towers = towers
    torch.testing.assert_close(found, trainer.see(packed.pixels["photos_dev"]).heads, atol=0.02, rtol=0.0)
