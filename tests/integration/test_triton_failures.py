"""What a search does when Triton, or one of its models, is away, slow, overloaded, broken, or of another bundle.

All tests share one server with explicit model control; each leaves it healthy. The cross-encoder's `model.py` waits while a file
exists, so that it can be made as slow as a test wants.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from milvus_coop import Bundle, CoopIngest, CoopSearch, SearchResult, load_bundle
from milvus_coop.bundle import CROSS_ENCODER, TEXT_ENCODER, BundleSpec
from milvus_coop.config import Settings
from milvus_coop.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    BundleMismatchError,
    DeadlineExceededError,
    MilvusCoopError,
)
from milvus_coop.models.backends import open_backend
from milvus_coop.models.encoder import BundleEncoder
from milvus_coop.search.workers import THREADS
from tests.servers.triton import PATIENT, BreakableTriton
from tests.waiting import wait_until

pytestmark = pytest.mark.triton

PICTURES = sorted((Path(__file__).parent.parent.parent / "examples" / "images").glob("*.jpg"))[:24]
QUERIES = ["a red apple", "two dogs on a beach", "猫", "🚲 in the rain", "an old stone bridge over a small river in autumn"]
LONG_S = 60.0
"""The limit of a client's calls where the server must be what decides, also on a busy machine."""
SHORT_S = 3.0
"""The limit of a client's calls where the limit must be what decides."""
SOON_S = 8.0
"""How long an error may take that must come at once, or at `SHORT_S`: less than the 10 s that calls have unless told otherwise."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BreakableTriton]:
    server = BreakableTriton(tmp_path_factory.mktemp("breakable"))
    with server:
        yield server


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton-failures")
    (folder / "photos").mkdir()
    for path in PICTURES:
        shutil.copy(path, folder / "photos")
    with CoopIngest("images", uri=folder / "lite.db", models="onnx") as ingest:
        assert ingest.run([folder / "photos"]).added == len(PICTURES)
    return folder / "lite.db"


@pytest.fixture(scope="module")
def search(server: BreakableTriton, database: Path) -> Iterator[CoopSearch]:
    """One client for all tests: it is never rebuilt, whatever happens to the server. It remembers no text."""
    with CoopSearch("images", uri=database, models=server.uri, timeout_s=LONG_S, remembered_texts=0) as search:
        yield search


@pytest.fixture(autouse=True)
def healthy(server: BreakableTriton, search: CoopSearch) -> Iterator[None]:
    """Before and after each test."""
    yield
    wait_until(lambda: is_coop(search))


def is_coop(search: CoopSearch) -> bool:
    try:
        return search.query(QUERIES[0]).reranked
    except (BackendUnavailableError, BackendTimeoutError):
        return False


def assert_degraded(result: SearchResult, reason: str) -> None:
    assert [hit.be_rank for hit in result] == list(range(1, len(result) + 1))
    assert len(result) == 10
    assert (result.reranked, result.reranked_count) == (False, 0)
    assert {hit.ce_score for hit in result} == {None}
    assert reason in (result.reason or "")


def failure(action: Callable[[], object]) -> MilvusCoopError:
    """The error that it ends with, soon."""
    start = time.monotonic()
    with pytest.raises(MilvusCoopError) as caught:
        action()
    assert time.monotonic() - start < SOON_S
    return caught.value


def test_only_the_cross_encoder_is_away(server: BreakableTriton, search: CoopSearch, database: Path) -> None:
    good = search.query(QUERIES[0])
    server.unload(CROSS_ENCODER)
    assert_degraded(search.query(QUERIES[0]), "does not serve cross_encoder")
    with CoopSearch(
        "images", uri=database, models=server.uri, timeout_s=LONG_S
    ) as late:  # opened meanwhile: works, and recovers as well
        assert_degraded(late.query(QUERIES[0]), "does not serve cross_encoder")
        server.load(CROSS_ENCODER)
        assert late.query(QUERIES[0]).hits == search.query(QUERIES[0]).hits == good.hits


def test_the_text_encoder_is_away(server: BreakableTriton, search: CoopSearch) -> None:
    server.unload(TEXT_ENCODER)
    try:
        error = failure(lambda: search.query(QUERIES[0]))
        assert isinstance(error, BackendUnavailableError)
        assert "does not serve text_encoder" in str(error)
    finally:
        server.load(TEXT_ENCODER)
    assert search.query(QUERIES[0]).reranked


def test_the_process_of_a_model_is_killed(server: BreakableTriton, search: CoopSearch) -> None:
    """Triton does not start it again, and goes on to call the model ready: `load` has to try it to know."""
    backend = open_backend(Settings(models=server.uri, timeout_s=LONG_S), load_bundle("coop-small"))
    backend.load([CROSS_ENCODER])
    server.kill_process_of(CROSS_ENCODER)
    assert_degraded(search.query(QUERIES[0]), "Stub process")
    assert_degraded(search.query(QUERIES[0]), "is not healthy")
    assert server.is_ready(CROSS_ENCODER)
    error = failure(lambda: backend.load([TEXT_ENCODER, CROSS_ENCODER]))
    assert isinstance(error, BackendUnavailableError)
    assert "cross_encoder" in str(error)
    server.unload(CROSS_ENCODER)  # to load what has not changed does nothing, whatever became of its process
    server.load(CROSS_ENCODER)
    backend.load([CROSS_ENCODER])
    backend.close()
    assert search.query(QUERIES[0]).reranked


def test_a_slow_cross_encoder_and_a_deadline(server: BreakableTriton, search: CoopSearch) -> None:
    with server.slow_cross_encoder():
        start = time.monotonic()
        result = search.query(QUERIES[0], deadline_ms=1000 * SHORT_S)
        assert 0.9 * SHORT_S < time.monotonic() - start < SOON_S
    assert_degraded(result, "did not answer within ")
    assert search.query(QUERIES[0], deadline_ms=60_000).reranked


def test_a_slow_cross_encoder_and_the_clients_own_limit(server: BreakableTriton, database: Path) -> None:
    with CoopSearch("images", uri=database, models=server.uri, timeout_s=SHORT_S) as hasty:
        with server.slow_cross_encoder():
            start = time.monotonic()
            result = hasty.query(QUERIES[0])
            assert 0.9 * SHORT_S < time.monotonic() - start < SOON_S
        assert_degraded(result, f"did not answer within {SHORT_S:g} s")
        wait_until(lambda: is_coop(hasty))


def test_a_server_that_hangs(server: BreakableTriton, search: CoopSearch, database: Path) -> None:
    with CoopSearch("images", uri=database, models=server.uri, timeout_s=SHORT_S) as hasty:
        with server.frozen():
            error = failure(lambda: hasty.query(QUERIES[0]))
            assert isinstance(error, BackendTimeoutError)
            assert "text_encoder" in str(error)
            opening = failure(lambda: CoopSearch("images", uri=database, models=server.uri, timeout_s=SHORT_S))
            assert isinstance(opening, BackendTimeoutError)
        wait_until(lambda: is_coop(hasty))
    assert search.query(QUERIES[0]).reranked


def test_a_deadline_holds_against_a_server_that_hangs(server: BreakableTriton, search: CoopSearch) -> None:
    """It bounds the encoding too, and no thread is left, because each request ends at the deadline by itself."""

    def ask(i: int) -> tuple[float, MilvusCoopError]:
        start = time.monotonic()
        error = failure(lambda: search.query(QUERIES[i % 5], deadline_ms=500))
        return time.monotonic() - start, error

    with server.frozen(), ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(200)))
        assert {type(error) for _, error in answers} == {DeadlineExceededError}
        assert max(took_s for took_s, _ in answers) < SHORT_S  # 0.75 s on a machine that has nothing else to do
        wait_until(lambda: search._workers._free._value == THREADS)  # while the server still hangs, every thread is free again
        # A caller may have left one thread that was about to end, and no more.
        assert sum(thread.name.startswith("milvus-coop-search") for thread in threading.enumerate()) <= 2 * 16
    wait_until(lambda: is_coop(search))
    assert search.query(QUERIES[0], deadline_ms=60_000).reranked


def test_a_call_that_has_no_time_left(server: BreakableTriton, search: CoopSearch) -> None:
    for limit_s in (0.0, -1.0, 1e-6):
        assert isinstance(failure(lambda s=limit_s: search.encoder.encode_texts(["x"], timeout_s=s)), BackendTimeoutError)  # type: ignore[misc]


def test_a_full_queue_degrades_and_does_not_hang(server: BreakableTriton, search: CoopSearch) -> None:
    server.configure(CROSS_ENCODER, dataclasses.replace(PATIENT, queue_size=1))
    server.load(CROSS_ENCODER)
    try:
        with server.slow_cross_encoder() as go_on, ThreadPoolExecutor(16) as pool:
            running = [pool.submit(search.query, QUERIES[i % 5]) for i in range(16)]
            wait_until(lambda: sum(f.done() for f in running) >= 8)
            go_on()
            results = [f.result(timeout=60) for f in running]
        refused = [result for result in results if not result.reranked]
        assert 8 <= len(refused) < 16
        for result in refused:
            assert_degraded(result, "is overloaded: ")
            assert "maximum queue size" in (result.reason or "").lower()
    finally:
        server.configure(CROSS_ENCODER)
        server.load(CROSS_ENCODER)


def test_pairs_that_wait_too_long_are_refused(server: BreakableTriton, search: CoopSearch) -> None:
    server.configure(CROSS_ENCODER, dataclasses.replace(PATIENT, queue_timeout_us=1000))
    server.load(CROSS_ENCODER)
    try:
        with server.slow_cross_encoder() as go_on, ThreadPoolExecutor(4) as pool:
            first = pool.submit(search.query, QUERIES[0])
            server.wait_until_asked()
            running = [pool.submit(search.query, text) for text in QUERIES[1:4]]
            threading.Timer(4, go_on).start()  # nothing to poll: Triton does not tell what waits
            results = [first.result(timeout=60), *(f.result(timeout=60) for f in running)]
        assert any(not r.reranked for r in results)
        for result in results:
            if not result.reranked:
                assert_degraded(result, "is overloaded: Request timeout expired")
    finally:
        server.configure(CROSS_ENCODER)
        server.load(CROSS_ENCODER)


def test_what_the_client_gave_up_is_not_run(server: BreakableTriton, search: CoopSearch) -> None:
    """Else a slow server would work off a queue that nobody waits for."""

    def executions() -> int:
        counts: list[int] = []
        server._admin(lambda client: counts.append(client.get_inference_statistics(CROSS_ENCODER).model_stats[0].inference_count))
        return counts[0]

    with server.slow_cross_encoder():
        before = executions()
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda text: search.query(text, deadline_ms=1000), [QUERIES[0]] * 8))
        assert not any(result.reranked for result in results)
    wait_until(lambda: is_coop(search))
    assert executions() - before <= 4 * 16 + 24  # what two instances had begun or fetched when the gate closed, and `is_coop`


def test_many_threads_get_the_answers_of_one(search: CoopSearch) -> None:
    """To the tolerance of test_triton_search.py: the batches that Triton forms differ."""
    expected = [search.query(text, limit=24) for text in QUERIES]
    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda i: search.query(QUERIES[i % 5], limit=24), range(128), timeout=60))
    for i, result in enumerate(results):
        assert (result.reranked, result.reason) == (True, None)
        scores = {hit.uri: hit.ce_score for hit in expected[i % 5]}
        assert {hit.uri: hit.ce_score for hit in result} == pytest.approx(scores, abs=1e-5)


def other_bundle() -> Bundle:
    bundle = load_bundle("coop-small")
    return Bundle(bundle.folder, dataclasses.replace(bundle.spec, version="99"))


def test_a_server_of_another_bundle(server: BreakableTriton) -> None:
    bundle, other = load_bundle("coop-small"), other_bundle()
    backend = open_backend(Settings(models=server.uri), other)
    error = failure(lambda: backend.load([TEXT_ENCODER]))
    backend.close()
    assert isinstance(error, BundleMismatchError)
    for name in (bundle.spec.label, bundle.spec.fingerprint, other.spec.label, other.spec.fingerprint, server.uri.split("//")[1]):
        assert name in str(error)


def test_the_bundle_is_changed_while_the_server_runs(server: BreakableTriton, search: CoopSearch) -> None:
    """No connection is lost, and the very next request is refused."""
    assert search.query(QUERIES[0]).reranked
    server.configure(TEXT_ENCODER, spec=other_bundle().spec)
    server.load(TEXT_ENCODER)
    try:
        assert isinstance(attempt(search), BundleMismatchError)
    finally:
        server.configure(TEXT_ENCODER)
        server.load(TEXT_ENCODER)


def test_no_answer_comes_from_another_bundle_while_one_is_swapped(server: BreakableTriton, search: CoopSearch) -> None:
    """Requests go on all the time; the other bundle has no answers of its own, so that one from it would be seen."""
    spec, stop, answers = other_bundle().spec, threading.Event(), list[object]()
    script = server.folder_of(TEXT_ENCODER) / "model.py"
    honest = script.read_text(encoding="utf-8")
    good = search.encoder.encode_texts([QUERIES[0]]).embeddings

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                answers.append(search.encoder.encode_texts([QUERIES[0]]).embeddings)
            except (BackendError, BundleMismatchError) as exc:
                answers.append(exc)

    def swap(other: BundleSpec | None, text: str) -> None:
        server.configure(TEXT_ENCODER, spec=other)
        (path,) = (server.repository / TEXT_ENCODER).glob("*/model.py")
        path.unlink()
        path.write_text(text, encoding="utf-8")
        server.load(TEXT_ENCODER)
        before = len(answers)
        wait_until(lambda: len(answers) > before + 20)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(keep_asking) for _ in range(2)]
        try:
            for _ in range(3):
                swap(spec, honest.replace("result[start:end]", "-result[start:end]"))
                swap(None, honest)
        finally:
            stop.set()
            if not script.is_file():
                swap(None, honest)
        for future in running:
            future.result(timeout=60)
    embeddings = [answer for answer in answers if isinstance(answer, np.ndarray)]
    assert len(embeddings) > 20
    assert sum(isinstance(answer, BundleMismatchError) for answer in answers) > 20
    for embedding in embeddings:
        assert embedding == pytest.approx(good, abs=1e-5)


def test_two_bundles_side_by_side_in_one_repository(server: BreakableTriton, search: CoopSearch) -> None:
    """Each client is answered by its own: here the other bundle's embeddings point the other way."""
    other = other_bundle()
    ours, config = server.folder_of(TEXT_ENCODER), server.repository / TEXT_ENCODER / "config.pbtxt"
    theirs = ours.with_name(str(other.spec.served_version))
    shutil.copytree(ours, theirs)
    script = theirs / "model.py"
    script.write_text(script.read_text(encoding="utf-8").replace("result[start:end]", "-result[start:end]"), encoding="utf-8")
    both = f"[{ours.name}, {theirs.name}]"
    config.write_text(config.read_text(encoding="utf-8").replace(f"[{ours.name}]", both), encoding="utf-8")
    good = search.encoder.encode_texts([QUERIES[0]]).embeddings
    server.load(TEXT_ENCODER)
    backend = open_backend(Settings(models=server.uri, timeout_s=LONG_S), other)
    try:
        ids = np.ones((1, 8), dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": ids}
        assert isinstance(search.encoder, BundleEncoder)
        ours_now = search.encoder._backend.run(TEXT_ENCODER, inputs)["text_embedding"]
        assert backend.run(TEXT_ENCODER, inputs)["text_embedding"] == pytest.approx(-ours_now, abs=1e-5)
        assert search.encoder.encode_texts([QUERIES[0]]).embeddings == pytest.approx(good, abs=1e-5)
    finally:
        backend.close()
        shutil.rmtree(theirs)
        server.configure(TEXT_ENCODER)
        server.load(TEXT_ENCODER)


def test_a_repository_that_was_made_by_hand(server: BreakableTriton, search: CoopSearch) -> None:
    """Its version 1 is refused, and the message says which name its folder must have."""
    version = search.encoder.spec.served_version
    folder, config = server.folder_of(TEXT_ENCODER), server.repository / TEXT_ENCODER / "config.pbtxt"
    folder.rename(folder.with_name("1"))
    config.write_text(config.read_text(encoding="utf-8").replace(str(version), "1"), encoding="utf-8")
    server.load(TEXT_ENCODER)
    try:
        error = attempt(search)
        assert isinstance(error, BundleMismatchError)
        assert "as version 1 of text_encoder; expected: " in str(error)
        assert f"as version {version}" in str(error)
    finally:
        server.configure(TEXT_ENCODER)
        server.load(TEXT_ENCODER)


def test_the_bundle_is_changed_behind_a_restart(server: BreakableTriton, search: CoopSearch) -> None:
    """The client is idle meanwhile: gRPC reconnects, and no call fails that would tell."""
    assert search.query(QUERIES[0]).reranked
    server.kill()
    server.configure(TEXT_ENCODER, spec=other_bundle().spec)
    server.start()
    try:
        answers: list[object] = []
        wait_until(lambda: answers.append(attempt(search)) or not isinstance(answers[-1], BackendUnavailableError))  # type: ignore[func-returns-value]
        assert isinstance(answers[-1], BundleMismatchError)
    finally:
        server.configure(TEXT_ENCODER)
        server.load(TEXT_ENCODER)


def attempt(search: CoopSearch) -> SearchResult | Exception:
    try:
        return search.query(QUERIES[0])
    except (BackendError, BundleMismatchError) as exc:
        return exc


def test_a_server_that_is_killed_under_load(server: BreakableTriton, search: CoopSearch, database: Path) -> None:
    expected = {hit.uri: hit.ce_score for hit in search.query(QUERIES[0])}
    stop = threading.Event()
    answers: list[tuple[float, SearchResult | Exception]] = []

    def keep_asking() -> None:
        while not stop.is_set():
            start = time.monotonic()
            answer = attempt(search)
            answers.append((time.monotonic() - start, answer))
            stop.wait(0.02 if isinstance(answer, Exception) else 0)  # a client that does not spin

    def good() -> list[SearchResult]:
        return [answer for _, answer in list(answers) if isinstance(answer, SearchResult) and answer.reranked]

    def errors() -> list[Exception]:
        return [answer for _, answer in list(answers) if isinstance(answer, Exception)]

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(keep_asking) for _ in range(6)]
        try:
            wait_until(lambda: len(good()) >= 20)
            server.kill()
            too_early = failure(lambda: CoopSearch("images", uri=database, models=server.uri, timeout_s=LONG_S))
            wait_until(lambda: len(errors()) >= 20)
            before = len(good())
            server.start()
            wait_until(lambda: len(good()) > before, within_s=10)  # gRPC's own pauses grow to two minutes
            wait_until(lambda: len(good()) >= before + 20)
        finally:
            stop.set()
        for future in running:
            future.result(timeout=60)  # no other error
    assert isinstance(too_early, BackendUnavailableError)
    assert "cannot be reached" in str(too_early)
    assert "milvus-coop triton serve" in str(too_early)
    assert max(took_s for took_s, _ in answers) < LONG_S / 2  # nobody waited for a limit
    assert all(isinstance(error, BackendUnavailableError) for error in errors())
    assert all({hit.uri: hit.ce_score for hit in result} == pytest.approx(expected, abs=1e-5) for result in good())
    with CoopSearch("images", uri=database, models=server.uri, timeout_s=LONG_S) as opened_after:
        assert opened_after.query(QUERIES[0]).reranked
