"""Token files, in a folder and in fsspec's memory: complete or not there, nobody else's, and nothing outside."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import fsspec
import pytest

from milvus_coop.elsewhere.location import Location, parse_location
from milvus_coop.errors import InvalidArgumentError, StoreError, TokenStoreError
from milvus_coop.store.token_store import Owner, TokenStore, sweep, token_key
from milvus_coop.store.token_store.keys import is_key
from milvus_coop.store.token_store.marker import MARKER
from tests.waiting import Gate

OWNER = Owner("images", "toy 1", "f" * 32, "1" * 32)
KEYS = [token_key(f"item {i}", f"content {i}") for i in range(20)]
N_BYTES = 12
_numbers = itertools.count()


def content(i: int) -> bytes:
    return bytes([i]) * N_BYTES


@pytest.fixture(params=["folder", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return parse_location(tmp_path / "tokens" if request.param == "folder" else f"memory://tokens{next(_numbers)}/x")


@pytest.fixture
def store(location: Location) -> TokenStore:
    return TokenStore.open(location, OWNER, is_new=lambda: True)


def names(location: Location) -> set[str]:
    system = fsspec.filesystem(location.protocol)
    root = system._strip_protocol(location.url)
    return {path[len(root) + 1 :] for path in system.find(root)}


def put(location: Location, name: str, raw: bytes) -> None:
    system = fsspec.filesystem(location.protocol, auto_mkdir=True) if location.folder else fsspec.filesystem(location.protocol)
    system.pipe_file(f"{system._strip_protocol(location.url)}/{name}", raw)


def test_what_is_written_is_read(store: TokenStore, location: Location) -> None:
    store.write({key: content(i) for i, key in enumerate(KEYS)})
    wanted = [KEYS[3], KEYS[0], token_key("unknown", ""), KEYS[3]]
    found = store.read(wanted, N_BYTES, timeout_s=5)
    assert [None if raw is None else bytes(raw) for raw in found] == [content(3), content(0), None, content(3)]
    assert names(location) == {MARKER, *KEYS}
    assert {entry.name for entry in store.entries()} == set(KEYS)
    store.write({KEYS[0]: content(99)})
    assert [bytes(raw or b"") for raw in store.read(KEYS[:1], N_BYTES)] == [content(99)]
    store.remove([KEYS[0], KEYS[1], KEYS[0], "no key"])
    assert names(location) == {MARKER, *KEYS[2:]}
    store.remove(KEYS[:2])
    store.clear()
    assert names(location) == set()
    assert location.folder is None or not location.folder.exists()


def test_what_is_read_holds_no_file_open(tmp_path: Path) -> None:
    store = TokenStore.open(parse_location(tmp_path / "t"), OWNER, is_new=lambda: True)
    store.write({key: content(1) for key in KEYS})
    found = store.read(KEYS, N_BYTES)
    assert {type(raw) for raw in found} == {bytes}
    os.truncate(tmp_path / "t" / KEYS[0], 0)  # what was mapped would be gone, and the process with it
    assert found == [content(1)] * len(KEYS)


def test_damaged_files_are_not_read(store: TokenStore, location: Location) -> None:
    put(location, KEYS[0], content(0)[:-1])
    put(location, KEYS[1], content(1) + b"x")
    put(location, KEYS[2], b"")
    put(location, KEYS[3], content(3))
    assert [raw is not None for raw in store.read(KEYS[:4], N_BYTES)] == [False, False, False, True]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(24, "Too many open files"), OSError(5, "I/O")])
def test_what_hinders_reading_is_no_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    store = TokenStore.open(parse_location(tmp_path / "t"), OWNER, is_new=lambda: True)
    store.write({KEYS[0]: content(0)})
    (tmp_path / "t" / KEYS[1]).mkdir(parents=True)
    (tmp_path / "t" / KEYS[2][:2]).write_bytes(b"no folder")
    assert store.read(KEYS[:3], N_BYTES) == [content(0), None, None]

    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(TokenStoreError, match=f"cannot be read: .*{error.strerror}"):
        store.read(KEYS[:1], N_BYTES)


def test_a_place_that_went_away_is_named(store: TokenStore, location: Location) -> None:
    assert store.read(KEYS[:3], N_BYTES, timeout_s=5) == [None] * 3
    store.write({KEYS[0]: content(0)})
    store.clear()
    with pytest.raises(
        TokenStoreError, match=f"the token store is not at .*{location.url[-5:]}; expected: a folder with a {MARKER}"
    ):
        store.read(KEYS[:3], N_BYTES, timeout_s=5)
    assert store.read(["no key"], N_BYTES) == [None]


WRONG_KEYS = [
    "",
    "../secret",
    f"../{KEYS[0]}",
    "/etc/passwd",
    MARKER,
    KEYS[0].upper(),
    f"{KEYS[0]}\n",
    f"{KEYS[0]}/../../x",
    f"{KEYS[0]}.tmp",
    f"00/{'1' * 32}-{'2' * 32}",
    "s3://bucket/key",
    "AAAA",
]


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_what_is_no_key_opens_nothing(store: TokenStore, location: Location, key: str) -> None:
    assert not is_key(key)
    put(location, "secret", content(1))
    assert store.read([key], N_BYTES) == [None]
    with pytest.raises(TokenStoreError, match="cannot name a token file"):
        store.write({key: content(1)})
    store.remove([key])
    assert "secret" in names(location)


def test_keys_follow_id_and_content() -> None:
    id, digest = "ab" * 16, "cd" * 32
    assert token_key(id, digest) == f"ab/{id}-{digest[:32]}"
    assert len({token_key(a, b) for a in (id, "x", "é\udcff") for b in (digest, "", "y")}) == 9
    assert all(is_key(token_key(a, b)) for a in (id, "", "../..") for b in (digest, "/"))
    assert token_key(id, digest[:32] + "0" * 32) == token_key(id, digest)  # metadata alone changes nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"collection": "others"}, "holds the tokens of another collection 'images'"),
        ({"id": "2" * 32}, "another collection 'images'"),
        ({"fingerprint": "e" * 32, "bundle": "other 2"}, r"were made with bundle toy 1 \(ffffffff\); expected: those of other 2"),
    ],
)
def test_someone_elses_tokens(store: TokenStore, location: Location, change: dict[str, str], message: str) -> None:
    other = dataclasses.replace(OWNER, **change)
    for is_new in (True, False):
        with pytest.raises(TokenStoreError, match=message):
            TokenStore.open(location, other, is_new=lambda value=is_new: value)  # type: ignore[misc]
    assert TokenStore.open(location, OWNER, is_new=lambda: False).owner() == OWNER


def test_missing_and_damaged_markers(location: Location) -> None:
    with pytest.raises(TokenStoreError, match=f"is not at .*expected: a folder with a {MARKER}; try: --token-store"):
        TokenStore.open(location, OWNER, is_new=lambda: False)
    for text, message in ((b"no json", "is damaged"), (b"[]", "is damaged"), (b'{"format": 9}', "format 9; expected: format 1")):
        put(location, MARKER, text)
        with pytest.raises(TokenStoreError, match=message):
            TokenStore.open(location, OWNER, is_new=lambda: True)


def test_files_without_a_marker_are_not_taken_over(location: Location) -> None:
    put(location, KEYS[0], content(0))
    for is_new in (True, False):
        with pytest.raises(
            TokenStoreError, match=f"of 'images' is at .*, but its {MARKER} is missing; .*try: {MARKER} from a backup"
        ):
            TokenStore.open(location, OWNER, is_new=lambda value=is_new: value)  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    ["", "http://host/x", "https://host/x", "ftp://h/x", "sftp://h/x", "simplecache::s3://b/x", "s3://key:secret@b/x", "a\0b"],
)
def test_places_that_are_not_allowed(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_location(text)
    assert "secret" not in str(caught.value)
    assert "token store" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://", "at s3:// names no bucket; expected: s3://bucket/folder"),
        ("gs:///x", "names no bucket"),
        ("s3://b/x/../y", r"at s3:// holds a segment \.\.; expected: s3://bucket/folder"),
        ("s3://../y", r"holds a segment \.\."),
        ("file://host/x", "at file:// names a host; expected: file:///folder, or a folder"),
    ],
)
def test_places_that_say_too_little_or_too_much(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        parse_location(text)


def test_places_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_location("a/b/").folder == parse_location(f"file://{tmp_path}/a/b").folder == tmp_path / "a" / "b"
    assert str(parse_location("s3://bucket/x/") / "images") == "s3://bucket/x/images"
    assert parse_location("gs://b").folder is None


@pytest.mark.parametrize(("url", "driver"), [("s3://b/x", "s3fs"), ("gs://b/x", "gcsfs"), ("az://b/x", "adlfs")])
def test_a_missing_driver_says_what_to_install(url: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(protocol: str) -> None:
        raise ImportError(protocol)

    monkeypatch.setattr(fsspec, "filesystem", refuse)
    with pytest.raises(TokenStoreError, match=f"needs {driver}, which is not installed; try: pip install {driver}"):
        TokenStore.at(parse_location(url))


FOREIGN = [OSError("reset by peer"), PermissionError("Access Denied"), TimeoutError(), ValueError("no credentials"), RuntimeError()]


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
def test_errors_of_drivers_become_ours(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore.open(parse_location(f"memory://broken{next(_numbers)}"), OWNER, is_new=lambda: True)
    store.write({KEYS[0]: content(0)})

    def fail(*args: object, **options: object) -> None:
        raise error

    system = fsspec.get_filesystem_class("memory")
    for name in ("cat_file", "pipe_file", "rm_file", "find"):
        monkeypatch.setattr(system, name, fail)
    calls: list[Callable[[], object]] = [
        lambda: store.read(KEYS[:3], N_BYTES),
        lambda: store.write({KEYS[0]: content(0)}),
        lambda: store.remove(KEYS[:1]),
        lambda: list(store.entries()),
        store.owner,
    ]
    for call in calls:
        with pytest.raises(TokenStoreError, match="the token store memory://broken") as caught:
            call()
        assert caught.value.__cause__ is error
    assert issubclass(TokenStoreError, StoreError)


def test_a_bucket_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise FileNotFoundError("The specified bucket does not exist")

    system = fsspec.get_filesystem_class("memory")
    for name in ("pipe_file", "cat_file", "find", "rm_file"):
        monkeypatch.setattr(system, name, refuse)
    with pytest.raises(TokenStoreError, match="cannot be written to: The specified bucket does not exist"):
        TokenStore.open(parse_location("memory://none"), OWNER, is_new=lambda: True)
    with pytest.raises(TokenStoreError, match="is not at memory://none"):
        TokenStore.open(parse_location("memory://none"), OWNER, is_new=lambda: False)


def test_a_place_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store, gate = TokenStore.at(parse_location(f"memory://slow{next(_numbers)}")), Gate()
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", lambda *args, **options: gate.wait())
    try:
        for n in (1, 4):
            with pytest.raises(TokenStoreError, match=r"did not answer within 0\.05 s"):
                store.read(KEYS[:n], N_BYTES, timeout_s=0.05)
        assert gate.passed == 0  # nobody waited for the place
    finally:
        gate.open()


def test_of_a_huge_object_little_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore.open(parse_location(f"memory://huge{next(_numbers)}"), OWNER, is_new=lambda: True)
    store.write({KEYS[0]: bytes(10**6), KEYS[1]: b""})
    system = fsspec.get_filesystem_class("memory")
    read, loaded = system.cat_file, []

    def watch(self: object, path: str, start: int | None = None, end: int | None = None) -> bytes:
        raw: bytes = read(self, path, start=start, end=end)
        loaded.append(len(raw))
        if start is not None and not raw:
            raise OSError(22, "The requested range is not satisfiable")  # as S3 says
        return raw

    monkeypatch.setattr(system, "cat_file", watch)
    assert store.read(KEYS[:2], N_BYTES) == [None, None]
    assert sorted(loaded[:2]) == [0, N_BYTES + 1]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore.open(parse_location(tmp_path / "t"), OWNER, is_new=lambda: True)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(TokenStoreError, match=r"cannot be written to: .*No space left"):
        store.write({KEYS[0]: content(0)})
    assert names(parse_location(tmp_path / "t")) == {MARKER}


def test_a_sweep_takes_what_no_row_needs(store: TokenStore, location: Location) -> None:
    store.write({key: content(i) for i, key in enumerate(KEYS[:6])})
    left_over = f"{KEYS[6]}.{'a' * 32}.tmp"
    put(location, left_over, b"half")
    put(location, "ours.txt", b"not a token file")
    rows = [("u0", KEYS[0]), ("u1", KEYS[1]), ("u9", KEYS[9])]
    young = sweep(store, rows)
    assert (young.needed, young.swept, young.young, [f.uri for f in young.missing]) == (2, 0, 5, ["u9"])
    dry = sweep(store, rows, older_than_s=0, dry_run=True)
    assert (dry.needed, dry.swept, dry.young) == (2, 5, 0)
    assert len(names(location)) == 9
    assert sweep(store, rows, older_than_s=0) == dry
    assert names(location) == {MARKER, "ours.txt", *KEYS[:2]}
    put(location, KEYS[1], b"short")
    (damaged,) = sweep(store, rows[:2], older_than_s=0).damaged
    assert (damaged.uri, damaged.reason) == ("u1", f"its token file has 5 bytes instead of {N_BYTES}")


def test_a_sweep_spares_what_is_written_while_it_looks(store: TokenStore, location: Location) -> None:
    """A picture that became what it had been before: its file is a spare one when the sweep begins, and needed when it ends."""
    store.write({KEYS[0]: content(0), KEYS[1]: content(1)})
    if location.folder is not None:
        os.utime(location.folder / KEYS[0], (1, 1))

    def rows() -> Iterator[tuple[str, str]]:
        yield "u1", KEYS[1]
        yield "u2", KEYS[2]
        time.sleep(0.01)
        store.write({KEYS[0]: content(0), KEYS[2]: content(2)})

    report = sweep(store, rows(), older_than_s=0)
    assert (report.swept, report.missing) == (0, ())
    assert {entry.name for entry in store.entries()} == set(KEYS[:3])


def test_a_sweep_spares_what_is_written_just_before_it_would_go(
    store: TokenStore, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write({KEYS[0]: content(0), KEYS[1]: content(1)})
    remove_older = TokenStore.remove_older

    def late(self: TokenStore, keys: Sequence[str], before_s: float) -> int:
        time.sleep(0.02)
        self.write({KEYS[0]: content(0)})
        return remove_older(self, [*keys, KEYS[2]], before_s)

    monkeypatch.setattr(TokenStore, "remove_older", late)
    report = sweep(store, [], older_than_s=0)
    assert (report.swept, report.young) == (1, 1)
    assert names(location) == {MARKER, KEYS[0]}
