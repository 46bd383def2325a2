"""`ingest_items`: items of any mix that the caller has, without files and without lists."""

from __future__ import annotations

import io
import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from milvus_coop import CoopIngest, CoopModel, CoopSearch, FakeBackend, Item, Store, load_bundle
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.ingest import Progress, ingest, ingest_items
from milvus_coop.ingest.images import ImageLike
from milvus_coop.types import Array, IngestReport

from .ingest_kit import SPEC, MemorySink, encoder, picture


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.added, report.updated, report.unchanged, report.failed


class Run:
    def __init__(self, folder: Path) -> None:
        self.sink = MemorySink()
        self.encoder = encoder(FakeBackend(SPEC), folder)

    def __call__(self, items: object, kind: str = "image") -> IngestReport:
        return ingest_items(items, sink=self.sink, encoder=self.encoder, kind=kind)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


class Counted:
    """An iterable that knows its length, and can be read once, as tqdm's progress bar over a generator."""

    def __init__(self, items: Iterator[Item], length: int | None) -> None:
        self._items, self._length = items, length

    def __iter__(self) -> Iterator[Item]:
        yield from self._items

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("object of type 'generator' has no len()")
        return self._length


@pytest.mark.parametrize("length", [None, 4])
def test_no_item_of_a_progress_bar_is_lost(tmp_path: Path, length: int | None) -> None:
    paths = [picture(tmp_path / f"{i}.png", seed=i) for i in range(4)]
    totals: set[int | None] = set()
    with CoopIngest("images", uri=tmp_path / "lite.db", models=FakeBackend(load_bundle("coop-small").spec)) as ingest:
        items = Counted((Item(str(path), path) for path in paths), length)
        report = ingest.ingest_items(items, on_progress=lambda progress: totals.add(progress.total))
    assert counts(report) == (4, 0, 0, 0)
    assert totals == {length}
    with CoopModel(models=FakeBackend(load_bundle("coop-small").spec)) as model:
        assert len(model.score_pairs(["a", "b", "c", "d"], Counted(iter(paths), length))) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["image_embedding", "image_tokens"])
def test_a_model_that_returns_no_numbers_for_one_image(run: Run, tmp_path: Path, output: str) -> None:
    class Broken(FakeBackend):
        def run(self, graph: str, inputs: Any, *, timeout_s: float | None = None) -> dict[str, Array]:
            made = super().run(graph, inputs, timeout_s=timeout_s)
            if output in made:
                made[output] = made[output].copy()
                made[output][inputs["pixel_values"].mean(axis=(1, 2, 3)) > 250] = np.nan
            return made

    run.encoder = encoder(Broken(SPEC), tmp_path)
    report = run([Item(colour, Image.new("RGB", (40, 40), colour)) for colour in ("red", "white", "blue")])
    assert counts(report) == (2, 0, 0, 1)
    assert [(f.uri, f.reason) for f in report.failures] == [("white", "the model returned numbers that are not finite")]
    assert {row.uri for row in run.sink.held.values()} == {"red", "blue"}


def test_the_same_image_in_any_form_is_the_same_row(run: Run, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", seed=5)
    content = path.read_bytes()
    forms: dict[str, ImageLike] = {
        "path": path,
        "text": str(path),
        "bytes": content,
        "view": memoryview(content),
        "array": bytearray(content),
    }
    with Image.open(path) as opened:
        items = [Item(name, image) for name, image in forms.items()]
        assert counts(run([*items, Item("pillow", opened, metadata={"year": 1})])) == (6, 0, 0, 0)
    rows = {row.uri: row for row in run.sink.held.values()}
    for row in rows.values():
        np.testing.assert_array_equal(row.embedding, rows["path"].embedding)
    assert {rows[name].digest for name in forms} == {rows["path"].digest}
    assert rows["pillow"].metadata == {"year": 1}
    assert {rows[name].size for name in forms} == {len(content)}


def test_a_second_run_goes_by_the_content(run: Run, tmp_path: Path) -> None:
    contents = [picture(tmp_path / f"{n}.png", seed=n).read_bytes() for n in range(3)]
    pillow = Image.open(io.BytesIO(contents[2]))
    assert counts(run([Item("a", contents[0]), Item("b", contents[1]), Item("c", pillow)])) == (3, 0, 0, 0)
    assert counts(run([Item("a", contents[0]), Item("b", contents[2]), Item("c", pillow)])) == (0, 1, 2, 0)
    assert counts(run([Item("a", contents[0], metadata={"n": 1}), Item("c", Image.new("RGB", (9, 9)))])) == (0, 2, 0, 0)


def test_a_list_of_the_same_images_changes_nothing(run: Run, tmp_path: Path) -> None:
    paths = [picture(tmp_path / "p" / f"{n}.png", seed=n) for n in range(5)]
    assert counts(run(Item(path.as_posix(), path) for path in paths)) == (5, 0, 0, 0)
    assert counts(ingest([tmp_path / "p"], sink=run.sink, encoder=run.encoder)) == (0, 0, 5, 0)


def test_texts(run: Run) -> None:
    items = [Item("a", text="two dogs"), Item("b", text=" "), Item("c", b"x"), Item("d\n", text="x"), Item("e", text="\ud83d")]
    report = run(items, kind="text")
    assert counts(report) == (1, 0, 0, 4)
    assert report.failures[1].reason == "the item has no text"
    assert run(Item("a", text="two dogs") for _ in range(1)).failures[0].reason == "the item has no image"


def test_what_cannot_be_read_is_named(run: Run, tmp_path: Path) -> None:
    report = run([Item("junk", b"junk"), Item("gone", tmp_path / "gone.png"), Item("folder", tmp_path), Item("odd", 3)])  # type: ignore[arg-type]
    assert report.failures[0].reason.startswith("not an image; expected: one of JPEG, PNG")
    assert {f.uri: f.reason for f in report.failures} == {
        "junk": report.failures[0].reason,
        "gone": "cannot be read: No such file or directory",
        "folder": "is a folder",
        "odd": "cannot be read: the image is of type int; expected: a path, the bytes of a file, or an image of Pillow's",
    }


def test_of_items_with_one_name_the_last_counts(run: Run, tmp_path: Path) -> None:
    first, last = (picture(tmp_path / f"{n}.png", seed=n).read_bytes() for n in range(2))
    assert counts(run([Item("a", first), Item("a", last)])) == (1, 0, 0, 0)
    (row,) = run.sink.held.values()
    run.sink.held.clear()
    run([Item("a", last)])
    assert [row.digest] == [row.digest for row in run.sink.held.values()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"uri": ""}, "the uri of an item is ''"),
        ({"uri": 3}, "the uri of an item is 3"),
        ({"uri": "a", "text": 3}, "the text of 'a' is of type int"),
        ({"uri": "a", "metadata": [1]}, "the metadata of 'a' is of type list"),
    ],
)
def test_an_item_is_checked_when_it_is_made(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Item(**arguments)  # type: ignore[arg-type]


def test_something_else_than_an_item_is_a_mistake(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="an item is of type str; expected: Item"):
        run([Item("a", picture(tmp_path / "a.png")), "b.png"])


def test_items_are_taken_as_they_are_needed_and_their_bytes_are_not_kept(run: Run, tmp_path: Path) -> None:
    """Images of 20 MB: memory is bounded by bytes, not only by their number."""
    padded = picture(tmp_path / "a.bmp").read_bytes() + bytes(20 * 2**20)

    def many() -> Iterator[Item]:
        for n in range(40):
            yield Item(str(n), bytes(bytearray(padded)))

    tracemalloc.start()
    try:
        assert counts(run(many())) == (40, 0, 0, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 20 * 2**20


def test_a_failure_in_the_generator_keeps_what_came_before(run: Run, tmp_path: Path) -> None:
    content = picture(tmp_path / "a.png").read_bytes()

    def failing() -> Iterator[Item]:
        yield from (Item(str(n), content) for n in range(3000))
        raise RuntimeError("the camera is unplugged")

    with pytest.raises(RuntimeError, match="camera"):
        run(failing())
    assert len(run.sink.held) >= 900


def test_coop_ingest_creates_the_collection_with_the_first_item(tmp_path: Path) -> None:
    uri, progress = tmp_path / "lite.db", list[Progress]()
    dog = Image.new("RGB", (64, 64), "brown")
    with CoopIngest("images", uri=uri, models=FakeBackend(load_bundle("coop-small").spec)) as opened:
        assert counts(opened.ingest_items([])) == (0, 0, 0, 0)
        with Store(uri) as store:
            assert store.list() == []
        report = opened.ingest_items(itertools.chain([Item("dog", dog, metadata={"n": 1})]), on_progress=progress.append)
        assert counts(report) == (1, 0, 0, 0)
        assert counts(opened.ingest_items([Item("dog", dog, metadata={"n": 1})], on_progress=progress.append)) == (0, 0, 1, 0)
    assert (progress[0].total, progress[-1].total) == (None, 1)
    with CoopSearch("images", uri=uri, models=FakeBackend(load_bundle("coop-small").spec)) as search:
        assert [(hit.uri, hit.fields) for hit in search.query("a dog", output_fields=["n"])] == [("dog", {"n": 1})]
