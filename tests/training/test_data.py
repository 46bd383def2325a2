"""Text rules, groups and leaks: what keeps the held-out stamps held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from milvus_coop.training.coop_small.features import perceptual_hash
from milvus_coop.training.coop_small.packages import PACKAGES
from milvus_coop.training.coop_small.records import Record, normalise, read_records, unique_texts, write_records
from milvus_coop.training.coop_small.split import folds, group_records, hamming, read_test_ids, without_leaks
from milvus_coop.training.coop_small.workspace import Workspace


def _hashes(*rows: str) -> np.ndarray:
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


def test_records_survive_a_round_trip(tmp_path: Path) -> None:
    records = [_record("stamps/ä", "A „quoted“ text", "b"), _record("noto/b", "c")]
    write_records(tmp_path / "records.jsonl", records)
    assert read_records(tmp_path / "records.jsonl") == records


def test_hamming_counts_bits() -> None:
    dice = np.random.default_rng(0)
    left, right = dice.random((4, 64)) < 0.5, dice.random((5, 64)) < 0.5
    assert hamming(left, right).tolist() == [[int((a != b).sum()) for b in right] for a in left]


def test_groups_join_captions_and_near_copies_transitively() -> None:
    records = [_record("s/1", "A cat"), _record("s/2", "cat."), _record("s/3", "tiger"), _record("s/4", "dog")]
    groups = group_records(records, _hashes("1" * 64, "1" * 32, "1" * 31, "01" * 32))
    assert groups[0] == groups[1] == groups[2] != groups[3]
    numbers = folds(groups, [record.id for record in records], 2)
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]


def test_leaks_are_cut_from_pictures_and_from_texts() -> None:
    held_out = [_record("stamps/cat", "A cat.")]
    records = [
        held_out[0],
        _record("noto/cat", "cat", "pet"),  # same caption
        _record("noto/copy", "animal"),  # same picture
        _record("noto/dog", "dog", "cat", "pet"),  # a tag that gives the answer away
    ]
    hashes = _hashes("1" * 64, "10" * 32, "1" * 60, "1" * 16)
    kept = without_leaks(records, hashes, held_out, hashes[:1])
    assert kept == [(3, _record("noto/dog", "dog", "pet"))]


def test_the_committed_list_names_stamps_once() -> None:
    ids = read_test_ids()
    assert len(ids) == 187
    assert all(item.startswith("stamps/") for item in ids)


def test_packages_have_a_licence_and_share_alike_art_is_not_trained_on() -> None:
    assert len({package.folder for package in PACKAGES}) == len(PACKAGES)
    for package in PACKAGES:
        assert package.licence
        assert package.role != "train" or "SA" not in package.licence


def _drawing() -> Image.Image:
    picture = Image.new("RGBA", (90, 120))
    ImageDraw.Draw(picture).ellipse((10, 20, 70, 100), fill=(200, 30, 30, 255))
    return picture


def test_perceptual_hash_forgives_size_and_not_content() -> None:
    drawing = Image.alpha_composite(Image.new("RGBA", (90, 120), "white"), _drawing())
    other = drawing.rotate(90, expand=True)
    ImageDraw.Draw(other).rectangle((0, 0, 60, 40), fill=(0, 0, 0, 255))
    first, small, turned = (perceptual_hash(p.convert("RGB")) for p in (drawing, drawing.resize((45, 60)), other))
    assert (first != small).sum() <= 6 < (first != turned).sum()


def test_workspace_remembers_finished_steps_and_their_cost(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert not workspace.is_done("train")
    workspace.mark_done("train")
    workspace.note_cost("train", 12.4)
    workspace.note_cost("export", 3.0)
    assert Workspace(tmp_path).is_done("train")
    assert workspace.read("costs.json") == {"train": 12, "export": 3}
    assert workspace.read("missing.json") == {}
