"""The three places where what the cross-encoder reads of a picture is kept: same hits, and what can go wrong with each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from milvus_coop import CoopIngest, CoopSearch, SearchResult, Store, load_bundle
from milvus_coop.bundle.spec import Keep
from milvus_coop.cli.main import cli
from milvus_coop.config import Settings
from milvus_coop.errors import CollectionNotFoundError, InvalidArgumentError, StoreError, TokenStoreError
from milvus_coop.ingest import ingest
from milvus_coop.models.open import open_models
from milvus_coop.search import reranking
from milvus_coop.store import Collection
from milvus_coop.store.address import parse_address
from milvus_coop.store.schema import Header, read_header
from milvus_coop.store.token_files import location_of
from milvus_coop.store.token_store import token_key
from milvus_coop.store.token_store.marker import MARKER
from milvus_coop.types import IngestReport, Row
from tests.toy_bundle import COUNT, TOKEN_DIM, draw, make_bundle
from tests.waiting import Gate

KEEPS: tuple[Keep, ...] = ("collection", "store", "image")
N = 40
TEXTS = ("a red dog", "the blue cat on the beach", "green")
CAPTIONS = ("a red dog", "a blue cat", "the green beach", "a dog on the beach", "red")
INT8_TOLERANCE = 2e-3
"""Of a probability: tokens are off by half of 1/127 of their largest value, and 16 of them are averaged."""


class World:
    """A folder with bundles, pictures and a Milvus Lite database for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.album = folder / "album"

    def bundle(self, keep: Keep) -> Path:
        return self.folder / f"bundle-{keep}"

    def uri(self, keep: Keep) -> Path:
        return self.folder / f"{keep}.db"

    def ingest(
        self, keep: Keep, *sources: Path, prune: bool = False, force: bool = False, token_store: str | None = None
    ) -> IngestReport:
        with CoopIngest("images", uri=self.uri(keep), bundle=self.bundle(keep), token_store=token_store) as opened:
            return opened.run(sources or [self.album], prune=prune, force=force)

    def search(self, keep: Keep, name: str = "images", token_store: Path | None = None) -> CoopSearch:
        return CoopSearch(name, uri=self.uri(keep), bundle=self.bundle(keep), token_store=token_store)

    def store(self, keep: Keep = "store") -> Store:
        return Store(self.uri(keep))

    @property
    def tokens(self) -> Path:
        return self.folder / "store.db.tokens" / "images"

    def files(self) -> set[str]:
        """Names of all token files."""
        return {path.relative_to(self.tokens).as_posix() for path in self.tokens.rglob("*") if path.is_file()} - {MARKER}

    def keys(self) -> set[str]:
        """What the rows refer to."""
        with self.store() as store:
            collection = store.open("images")
            return {row.payload for row in collection.rows([id for id, _ in collection.all_stamps()]).values()}


def pictures(folder: Path, n: int = N) -> Path:
    for i in range(n):
        draw(folder / f"{i:02}.png", i)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Filled once, and not changed."""
    world = World(tmp_path_factory.mktemp("keep"))
    pictures(world.album)
    (world.folder / "captions.txt").write_text("\n".join(CAPTIONS), encoding="utf-8")
    for keep in KEEPS:
        make_bundle(world.bundle(keep), keep)
        assert world.ingest(keep).added == N
        with CoopIngest("captions", kind="text", uri=world.uri(keep), bundle=world.bundle(keep)) as opened:
            assert opened.run([world.folder / "captions.txt"]).added == len(CAPTIONS)
    return world


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Five pictures, nothing ingested."""
    world = World(tmp_path)
    pictures(world.album, 5)
    for keep in KEEPS:
        make_bundle(world.bundle(keep), keep)
    return world


def told(result: SearchResult) -> list[tuple[str, float, float | None]]:
    return [(hit.uri, hit.be_score, hit.ce_score) for hit in result]


def test_what_a_collection_holds(shared: World) -> None:
    assert sum(1 for path in shared.folder.iterdir() if path.name.endswith(".tokens")) == 1
    assert shared.files() == shared.keys()
    assert len(shared.files()) == N
    assert {path.stat().st_size for path in shared.tokens.rglob("*") if path.name != MARKER and path.is_file()} == {
        COUNT * (TOKEN_DIM + 2)
    }
    for keep, place in zip(KEEPS, ("in the collection", str(shared.tokens), "none: images are opened"), strict=True):
        with shared.store(keep) as store:
            collection = store.open("images", load_bundle(shared.bundle(keep)).spec)
            assert collection.keep == keep
            assert collection.info() == store.describe("images")
            assert collection.info().tokens.startswith(place)
            assert store.describe("captions").tokens == ""
            assert collection.has_payload is (keep != "image")
            row = next(iter(collection.rows([next(collection.all_stamps())[0]]).values()))
            assert (row.payload == "") is (keep == "image")
            assert (row.payload == token_key(row.id, row.digest)) is (keep == "store")


@pytest.mark.parametrize("score", ["ce", "sum"])
def test_the_same_hits_from_all_three(shared: World, score: str) -> None:
    found = {}
    for keep in KEEPS:
        with shared.search(keep) as search:
            results = search.query_many(TEXTS, limit=N, k=25, score=score)  # type: ignore[arg-type]
            assert all(result.reranked and result.reranked_count == 25 for result in results)
            for text, result in zip(TEXTS, results, strict=True):
                alone = search.query(text, limit=N, k=25, score=score)  # type: ignore[arg-type]
                np.testing.assert_allclose(
                    [hit.score for hit in alone], [hit.score for hit in result], atol=1e-5
                )  # batches round apart
            found[keep] = results
    assert list(map(told, found["store"])) == list(map(told, found["collection"]))
    for exact, quantised in zip(found["image"], found["collection"], strict=True):
        by_uri = {hit.uri: hit for hit in quantised}
        assert by_uri.keys() == {hit.uri for hit in exact}
        for hit in exact:
            assert hit.be_rank == by_uri[hit.uri].be_rank
            assert hit.ce_score == pytest.approx(by_uri[hit.uri].ce_score, abs=INT8_TOLERANCE)


def test_image_to_text_in_all_three(shared: World) -> None:
    found = []
    for keep in KEEPS:
        with shared.search(keep, "captions") as search:
            result = search.query(image=shared.album / "03.png")
            assert result.reranked
            found.append({hit.text: hit.ce_score for hit in result})
    assert found[0] == found[1]
    assert found[2] == pytest.approx(found[0], abs=INT8_TOLERANCE)


@pytest.mark.parametrize("keep", KEEPS)
def test_reranking_what_another_retriever_found(shared: World, keep: Keep) -> None:
    with shared.search(keep) as search:
        expected = search.query(TEXTS[0], limit=20, k=20)
        result = search.rerank(TEXTS[0], ids=sorted(hit.id for hit in expected))
    assert result.reranked
    scores = {hit.id: hit.ce_score for hit in expected}
    assert {hit.id: hit.ce_score for hit in result} == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("keep", KEEPS)
def test_chunks_change_nothing(shared: World, keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    with shared.search(keep) as search:
        whole = [search.query_many(TEXTS, limit=N, k=N), search.query_many(TEXTS, limit=N, k=N, deadline_ms=60_000)]
        monkeypatch.setattr(reranking, "CHUNK", 3)
        monkeypatch.setattr(reranking, "CHUNK_BYTES", 1)
        parts = [search.query_many(TEXTS, limit=N, k=N), search.query_many(TEXTS, limit=N, k=N, deadline_ms=60_000)]
    for some in (*whole, *parts):
        for one, other in zip(some, whole[0], strict=True):
            assert one.reranked
            assert [hit.uri for hit in one] == [hit.uri for hit in other]
            np.testing.assert_allclose([hit.score for hit in one], [hit.score for hit in other], atol=1e-6)  # batches round apart


def test_the_sum_is_logit_plus_cosine(shared: World) -> None:
    with shared.search("store") as search:
        result = search.query(TEXTS[0], limit=N, k=20, score="sum")
        plain = search.query(TEXTS[0], limit=N, k=20)
    for hit in result[:20]:
        assert hit.ce_score is not None
        assert hit.score == pytest.approx(np.log(hit.ce_score / (1 - hit.ce_score)) + hit.be_score, abs=1e-5)
    assert [hit.score for hit in result[:20]] == sorted((hit.score for hit in result[:20]), reverse=True)
    assert [hit.be_rank for hit in result[20:]] == list(range(21, N + 1))
    assert [hit.uri for hit in result[:20]] != [hit.uri for hit in plain[:20]]
    assert all(hit.score == hit.ce_score for hit in plain[:20])


def test_a_bundle_says_how_its_authors_rank(world: World) -> None:
    make_bundle(world.bundle("store"), "store", score="sum")
    world.ingest("store")
    with world.search("store") as search:
        assert search.query("a red dog").hits == search.query("a red dog", score="sum").hits
        assert search.query("a red dog").hits != search.query("a red dog", score="ce").hits
        with pytest.raises(InvalidArgumentError, match="score is 'best'; expected: ce or sum"):
            search.query("a red dog", score="best")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="score is"):
            search.query_many(["a red dog"], score="")  # type: ignore[arg-type]


def test_changes_replace_files(world: World) -> None:
    world.ingest("store")
    before = world.files()
    assert world.ingest("store").unchanged == 5
    assert world.ingest("store", force=True).updated == 5
    assert world.files() == before == world.keys()
    draw(world.album / "02.png", 99)
    assert world.ingest("store").updated == 1
    after = world.files()
    assert (len(before - after), len(after - before)) == (1, 1)
    assert after == world.keys()
    source = world.folder / "list.jsonl"  # metadata alone: the same content, the same file
    source.write_text(json.dumps({"path": "album/03.png", "year": 2020}), encoding="utf-8")
    assert world.ingest("store", source).updated == 1
    assert world.files() == after == world.keys()
    (world.album / "00.png").unlink()
    assert world.ingest("store", prune=True).removed == 1
    assert world.files() == world.keys()
    assert len(world.files()) == 4
    with world.store() as store:
        collection = store.open("images")
        collection.delete([id for id, _ in collection.all_stamps()][:3])
    assert world.files() == world.keys()
    assert len(world.files()) == 1
    with world.store() as store:
        assert store.drop("images") == ""
    assert not world.tokens.parent.exists()


class Failing(Collection):
    """A collection whose next writes fail."""

    failures = 1

    def upsert(self, rows: Sequence[Row]) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError("the server is away")
        super().upsert(rows)


def test_killed_between_files_and_rows(world: World) -> None:
    """The files are there, the rows are not or are the old ones: they stay readable, and the next run ends as if nothing was."""
    world.ingest("store")
    old = world.keys()
    draw(world.album / "02.png", 99)
    draw(world.album / "05.png", 5)
    models = open_models(_settings(world))
    with world.store() as store:
        collection = store.open("images", models.encoder.spec)
        collection.__class__ = Failing
        with pytest.raises(StoreError, match="the server is away"):
            ingest([world.album], sink=collection, encoder=models.encoder, tokens=collection.tokens)
    models.close()
    assert world.keys() == old < world.files()
    assert len(world.files() - old) == 2
    with world.search("store") as search:
        assert search.query("a red dog").reranked
    report = world.ingest("store")
    assert (report.added, report.updated, report.unchanged) == (1, 1, 4)
    assert world.files() == world.keys()
    assert len(world.files()) == 6


def _settings(world: World) -> Settings:
    return Settings(bundle=str(world.bundle("store")))


def test_killed_between_rows_and_the_removal_of_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ingest("store")
    draw(world.album / "02.png", 99)

    def refuse(*args: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(fsspec.get_filesystem_class("file"), "rm_file", refuse)
        assert world.ingest("store").updated == 1
    spare = world.files() - world.keys()
    assert len(spare) == 1
    young = gc(world, "--json")
    assert json.loads(young.stdout) == {"needed": 5, "swept": 0, "young": 1, "missing": [], "damaged": [], "dry_run": False}
    dry = gc(world, "--older-than", "0", "--dry-run")
    assert (dry.exit_code, "5 token files needed, 1 to remove, 0 missing" in dry.output) == (0, True)
    assert spare < world.files()
    done = gc(world, "--older-than", "0")
    assert "1 removed" in done.output
    assert world.files() == world.keys()


def gc(world: World, *options: str, keep: Keep = "store") -> Result:
    return CliRunner().invoke(cli, ["collections", "gc", "images", "--uri", str(world.uri(keep)), *options])


def test_gc_names_items_without_a_sound_file(world: World) -> None:
    world.ingest("store")
    assert "damaged" not in gc(world).output
    cases: list[tuple[Callable[[Path], object], str]] = [
        (Path.unlink, "4 token files needed, 0 removed, 1 missing"),
        (lambda path: path.write_bytes(b"short"), "5 token files needed, 0 removed, 0 missing, 1 damaged"),
    ]
    for spoil, counts in cases:
        spoil(world.tokens / min(world.keys()))
        result = gc(world)
        assert result.exit_code == 1
        assert counts in result.output
        assert "Try: milvus-coop ingest SOURCES --force" in result.stderr
        report = json.loads(gc(world, "--json").stdout)
        (failure,) = report["missing"] + report["damaged"]
        assert failure["uri"].startswith(str(world.album))
        assert world.ingest("store", force=True).updated == 5
        assert gc(world).exit_code == 0


def test_gc_of_a_collection_without_files(world: World) -> None:
    world.ingest("image")
    result = gc(world, keep="image")
    assert result.exit_code == 2
    assert "'images' has no token store" in result.stderr


def test_drop_on_the_command_line_removes_files(world: World) -> None:
    world.ingest("store")
    shutil.copy(world.album / "00.png", world.tokens / "mine.png")
    done = CliRunner().invoke(cli, ["collections", "drop", "images", "--yes", "--uri", str(world.uri("store"))])
    assert done.exit_code == 0
    assert "Note" not in done.stderr
    assert [path.name for path in world.tokens.iterdir()] == ["mine.png"]
    with world.store() as store, pytest.raises(CollectionNotFoundError):
        store.open("images")


def test_drop_says_that_files_are_elsewhere(world: World) -> None:
    world.ingest("store")
    shutil.move(world.tokens, world.folder / "moved")
    done = CliRunner().invoke(cli, ["collections", "drop", "images", "--yes", "--uri", str(world.uri("store"))])
    assert done.exit_code == 0
    assert f"Note: no token files of 'images' were found at {world.tokens}; if they were moved" in done.stderr
    assert len(list((world.folder / "moved").iterdir())) > 1


def test_missing_and_damaged_files_are_counted(world: World) -> None:
    world.ingest("store")
    missing, damaged = sorted(world.keys())[:2]
    (world.tokens / missing).unlink()
    (world.tokens / damaged).write_bytes(b"short")
    with world.search("store") as search:
        result = search.query("a red dog")
        assert (result.reranked_count, len(result), result.reranked) == (3, 5, False)
        assert result.reason == "2 of 5 candidates have no token file, or a damaged one"
        assert [hit.ce_score is None for hit in result] == [False] * 3 + [True] * 2
        shutil.rmtree(world.tokens)
        result = search.query("a red dog")
        assert (result.reranked_count, [hit.be_rank for hit in result]) == (0, [1, 2, 3, 4, 5])
        assert (result.reason or "").startswith(f"the token store failed: the token store is not at {world.tokens}")


def test_a_row_cannot_name_another_file(world: World) -> None:
    world.ingest("store")
    (world.tokens.parent / "secret").write_bytes(b"x" * COUNT * (TOKEN_DIM + 2))
    with world.store() as store:
        collection = store.open("images")
        (row,) = collection.rows([next(collection.all_stamps())[0]]).values()
        for payload in ("../secret", str(world.tokens.parent / "secret"), "", MARKER):
            collection.upsert([Row(row.id, row.uri, row.digest, 0, 0, row.embedding, payload)])
            with world.search("store") as search:
                assert search.query("a red dog").reason == "1 of 5 candidates have no token file, or a damaged one"
        (other,) = collection.rows([next(id for id, _ in collection.all_stamps() if id != row.id)]).values()
        collection.upsert([Row(row.id, row.uri, row.digest, 0, 0, row.embedding, other.payload)])
        collection.delete([row.id])
    assert (world.tokens / other.payload).exists()
    assert (world.tokens.parent / "secret").exists()
    assert (world.tokens / MARKER).exists()


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://keep"
    with suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm("/keep", recursive=True)


def test_a_store_elsewhere_is_remembered_and_may_fail(world: World, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ingest("store", token_store=memory)
    assert not world.tokens.exists()
    assert len(fsspec.filesystem("memory").find("/keep/images")) == 6
    with world.search("store") as search:
        good = search.query("a red dog")
        assert good.reranked
        assert search.info().tokens == "memory://keep/images"

        def fail(*args: object, **options: object) -> None:
            raise OSError("the bucket is away")

        with monkeypatch.context() as patch:
            patch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", fail)
            result = search.query("a red dog")
        assert (result.reranked_count, [hit.be_rank for hit in result]) == (0, [1, 2, 3, 4, 5])
        assert result.reason == "the token store failed: the token store memory://keep/images cannot be read: the bucket is away"
        assert search.query("a red dog").hits == good.hits
        gate = Gate()
        with monkeypatch.context() as patch:
            patch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", lambda *args, **options: gate.wait())
            result = search.query("a red dog", deadline_ms=500)
        assert gate.passed == 0  # the query did not wait for the store
        gate.open()
        assert result.reason == "the deadline came after 0 of 5 candidates"
    assert (world.ingest("store").unchanged, world.ingest("store", force=True).updated) == (5, 5)
    with world.store() as store:
        store.drop("images")
    assert not fsspec.filesystem("memory").find("/keep/images")


def test_a_place_that_cannot_be_written_to_leaves_no_collection(world: World, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError("Access Denied")

    with monkeypatch.context() as patch:
        patch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", refuse)
        with pytest.raises(TokenStoreError, match="cannot be written to: Access Denied"):
            world.ingest("store", token_store=memory)
    with world.store() as store:
        assert store.list() == []
    assert world.ingest("store").added == 5


def test_a_store_that_moved_is_named(world: World) -> None:
    world.ingest("store")
    (world.folder / "moved").mkdir()
    shutil.move(world.tokens, world.folder / "moved" / "images")
    with pytest.raises(TokenStoreError, match=r"the token store of 'images' is not at .*try: --token-store"):
        world.search("store")
    with world.search("store", token_store=world.folder / "moved") as search:
        assert search.query("a red dog").reranked
    with world.store() as store, pytest.raises(TokenStoreError, match="is not at"):
        store.open("images")


def test_the_tokens_of_another_collection_are_refused(world: World, tmp_path: Path) -> None:
    world.ingest("store", token_store=str(tmp_path / "shared"))
    world.uri("store").rename(tmp_path / "first.db")
    with pytest.raises(
        TokenStoreError, match="is a token store already, of a collection that is not here; expected: an empty place"
    ):
        world.ingest("store", token_store=str(tmp_path / "shared"))
    world.ingest("store")
    with pytest.raises(TokenStoreError, match="holds the tokens of another collection 'images'"):
        world.search("store", token_store=tmp_path / "shared")
    with Store(tmp_path / "first.db") as store:
        assert len(store.open("images").sweep(older_than_s=0).missing) == 0


def test_a_database_that_was_deleted_leaves_nothing_in_the_way(world: World) -> None:
    world.ingest("store")
    shutil.rmtree(world.uri("store"))
    for path in list(world.album.iterdir())[1:]:
        path.unlink()
    assert world.ingest("store").added == 1
    assert world.files() == world.keys()
    assert len(world.files()) == 1


def test_a_creation_that_was_killed_before_the_marker(world: World) -> None:
    with world.store() as store:
        store.create("images", load_bundle(world.bundle("store")).spec)
    shutil.rmtree(world.tokens)
    assert world.ingest("store").added == 5
    assert world.files() == world.keys()


def test_a_server_needs_a_place(tmp_path: Path) -> None:
    address = parse_address("http://milvus:19530")
    header = Header("image", "toy 1", "f" * 32, token_id="1" * 32)
    with pytest.raises(InvalidArgumentError, match=r"too large for Milvus at http://milvus:19530.*try: --token-store"):
        location_of(address, "images", header, "")
    assert str(location_of(address, "images", header, "s3://b/t")) == "s3://b/t/images"
    remembered = Header("image", "toy 1", "f" * 32, "1" * 32, "s3://b/t")
    assert str(location_of(address, "images", remembered, "")) == "s3://b/t/images"
    assert str(location_of(address, "images", remembered, str(tmp_path))) == f"{tmp_path}/images"


def test_headers_of_collections_without_files_are_what_they_were() -> None:
    header = Header("image", "coop-small 1", "f" * 32)
    assert header.to_json() == '{"milvus_coop": 1, "kind": "image", "bundle": "coop-small 1", "fingerprint": "' + "f" * 32 + '"}'
    for one in (header, Header("image", "b", "f", "1" * 32), Header("image", "b", "f", "1" * 32, "s3://b")):
        assert read_header({"properties": {"milvus_coop": one.to_json()}}) == one


def test_an_ingest_without_its_store(world: World) -> None:
    models = open_models(_settings(world))
    with world.store() as store:
        collection = store.create("images", models.encoder.spec)
        with pytest.raises(InvalidArgumentError, match="no token store is given; expected: Collection"):
            ingest([world.album], sink=collection, encoder=models.encoder)
    models.close()


def test_pictures_that_cannot_be_opened_are_counted(world: World) -> None:
    lines = [{"path": "album/00.png"}, {"path": "album/01.png", "uri": "http://127.0.0.1:9/1.png"}]
    lines += [{"path": "album/02.png", "uri": (world.album / "02.png").as_uri()}, {"path": "album/03.png", "uri": "3"}]
    (world.folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert world.ingest("image", world.folder / "list.jsonl").added == 4
    with world.search("image") as search:
        result = search.query("a red dog")
        assert (result.reranked_count, len(result)) == (2, 4)
        assert (result.reason or "").startswith("2 of 4 candidates have no image that can be opened at their uri")
        assert {hit.uri for hit in result[:2]} == {str(world.album / "00.png"), (world.album / "02.png").as_uri()}
        (world.album / "00.png").unlink()
        os.mkfifo(world.album / "00.png")  # opening it would wait for ever
        assert search.query("a red dog").reranked_count == 1
        draw(world.album / "02.png", 77)  # another picture now: what was remembered of the old one is not used
        os.utime(world.album / "02.png", ns=(1, 1))
        before, after = result, search.query("a red dog")
        assert {hit.ce_score for hit in before[:2]}.isdisjoint({after[0].ce_score})


def test_a_deadline_while_pictures_are_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ingest("image")
    with world.search("image") as search:
        decode, gate = type(search.encoder).decode, Gate()

        def slowly(*arguments: object) -> object:
            gate.wait()
            return decode(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(type(search.encoder), "decode", slowly)
        result = search.query("a red dog", deadline_ms=500)
        assert gate.passed == 0  # the query did not wait for the pictures
        gate.open()
    assert (result.reranked_count, result.reason) == (0, "the deadline came after 0 of 5 candidates")
    assert result.timings.total_ms > 490  # it did wait until the deadline
    assert [hit.be_rank for hit in result] == [1, 2, 3, 4, 5]


def test_score_on_the_command_line(shared: World) -> None:
    common = ["query", "a red dog", "--json", "--uri", str(shared.uri("store")), "--bundle", str(shared.bundle("store"))]
    lines = {score: CliRunner().invoke(cli, [*common, "--score", score]).stdout for score in ("ce", "sum")}
    assert lines["ce"] == CliRunner().invoke(cli, common).stdout != lines["sum"]
    assert CliRunner().invoke(cli, [*common, "--score", "best"]).exit_code == 2
