"""The rule that keeps held-out drawings, their captions and their near copies out of training."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from milvus_coop.types import Array
from recipes.coop_small.split import (
    Record,
    group_records,
    hamming,
    normalise,
    perceptual_hash,
    read_test_ids,
    split_drawings,
    unique_texts,
    without_leaks,
)


def _hashes(*rows: str) -> Array:
    return np.array([[bit == "1" for bit in row.ljust(64, "0")] for row in rows])


def _record(name: str, *texts: str) -> Record:
    return Record(name, name.split("/")[0], "", texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A Red  kangaroo.", "red kangaroo"), ("the_sun!", "sun"), ("Thermos", "thermos"), ("An", "an"), ("...", "")],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_unique_texts_keeps_the_first_form() -> None:
    assert unique_texts(["A dog", "dog.", " ", "Big  dog"]) == ("A dog", "Big dog")


def test_hamming_counts_bits() -> None:
    dice = np.random.default_rng(0)
    left, right = dice.random((4, 64)) < 0.5, dice.random((5, 64)) < 0.5
    assert hamming(left, right).tolist() == [[int((a != b).sum()) for b in right] for a in left]


def test_perceptual_hash_forgives_size_and_not_content() -> None:
    drawing = Image.new("RGB", (90, 120), "white")
    ImageDraw.Draw(drawing).ellipse((10, 20, 70, 100), fill=(200, 30, 30))
    other = drawing.rotate(90, expand=True)
    ImageDraw.Draw(other).rectangle((0, 0, 60, 40), fill=(0, 0, 0))
    first, small, turned = (perceptual_hash(image) for image in (drawing, drawing.resize((45, 60)), other))
    assert (first != small).sum() <= 6 < (first != turned).sum()


def test_groups_join_captions_and_near_copies_transitively() -> None:
    records = [_record("s/1", "A cat"), _record("s/2", "cat."), _record("s/3", "tiger"), _record("s/4", "dog")]
    groups = group_records(records, _hashes("1" * 64, "1" * 32, "1" * 31, "01" * 32))
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_leaks_are_cut_from_images_and_from_texts() -> None:
    held_out = [_record("stamps/cat", "A cat.")]
    records = [
        held_out[0],
        _record("noto/cat", "cat", "pet"),  # the same caption
        _record("noto/copy", "animal"),  # the same look
        _record("noto/dog", "dog", "cat", "pet"),  # a tag that gives the answer away
    ]
    hashes = _hashes("1" * 64, "10" * 32, "1" * 60, "1" * 16)
    kept, hashes_kept = without_leaks(records, hashes, held_out, hashes[:1])
    assert kept == [_record("noto/dog", "dog", "pet")]
    assert (hashes_kept == hashes[3:]).all()


def test_the_committed_list_names_stamps_once() -> None:
    ids = read_test_ids()
    assert len(ids) == 187
    assert all(item.startswith("stamps/") for item in ids)


def test_no_split_shares_a_caption_or_a_look_with_what_it_is_judged_by() -> None:
    dice = np.random.default_rng(1)
    stamps = [_record(f"stamps/{n}", f"thing {n // 2}") for n in range(300)]  # two stamps a caption
    icons = [_record(f"noto/{n}", f"thing {n}", f"thing {n + 1}") for n in range(200)]
    style = [_record(f"openmoji/{n}", f"thing {n}") for n in range(200)]
    records = [*stamps, *icons, *style]
    hashes = dice.random((len(records), 64)) < 0.5
    hashes[310] = hashes[0]  # an icon that looks like a held-out stamp
    hashes[330] = hashes[510]  # an icon that looks like a drawing in the style
    found = split_drawings(records, hashes, frozenset(["stamps/0", "stamps/1"]), frozenset(["openmoji"]))
    ids = {split: [record.id for record in members] for split, members in found.items()}
    assert ids["test"] == ["stamps/0", "stamps/1"]
    assert ids["style"] == [record.id for record in style]
    dev = {record.caption for record in found["dev"]}
    assert 10 <= len(found["dev"]) == 2 * len(dev) <= 60
    assert all(record.source == "stamps" for record in found["dev"])
    assert not (dev | {"thing 0"}) & {text for record in found["train"] for text in record.texts}
    assert not {"noto/0", "noto/10", "noto/30", *ids["dev"], *ids["style"]} & set(ids["train"])
    lost = {record.id for record in icons if record.caption in dev | {"thing 0"}} | {"noto/10", "noto/30"}
    assert {record.id for record in icons} - set(ids["train"]) == lost
    assert len(ids["train"]) == 300 - 2 - len(ids["dev"]) + 200 - len(lost)
