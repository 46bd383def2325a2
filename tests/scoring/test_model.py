"""`CoopModel`: the same numbers as one text and one image at a time, in any form, and for a bounded memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from milvus_coop import CoopIngest, CoopModel, CoopSearch, FakeBackend, MilvusCoopError, load_bundle
from milvus_coop.bundle import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER
from milvus_coop.config import Settings
from milvus_coop.errors import (
    BackendError,
    BackendUnavailableError,
    BundleNotFoundError,
    ImageError,
    ImageTooLargeError,
    ImageUnreadableError,
    InvalidArgumentError,
)
from milvus_coop.models import reranker as reranker_module
from milvus_coop.models.open import open_models
from milvus_coop.models.scoring.reader import BATCH
from milvus_coop.types import Array
from tests.toy_bundle import draw, make_bundle

EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples" / "images").glob("*.jpg"))[:20]
TEXTS = ["a red apple", "two dogs on a beach", "an old stone bridge over a small river in autumn"]
SAME_COSINE = 1e-4
"""ONNX Runtime sums in another order for another batch size."""
SAME_SCORE = 5e-3
"""And a token's int8 value can then fall to the other side of a rounding step, here and there."""


@pytest.fixture(scope="module")
def model() -> Iterator[CoopModel]:
    with CoopModel() as model:
        yield model


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(load_bundle("coop-small").spec)


@pytest.fixture
def fake(backend: FakeBackend) -> CoopModel:
    return CoopModel(models=backend)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("drawn")
    return [draw(folder / f"{i}.png", i) for i in range(2 * BATCH + 3)]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.jpg"
    path.write_bytes(EXAMPLES[0].read_bytes()[:2000])
    return path


def test_embeddings(model: CoopModel) -> None:
    for rows, n in ((model.embed_texts(TEXTS), len(TEXTS)), (model.embed_images(EXAMPLES), len(EXAMPLES))):
        assert rows.shape == (n, model.spec.dim)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_the_same_as_one_pair_at_a_time(model: CoopModel) -> None:
    models = open_models(Settings())
    similarity, score = np.empty((2, len(TEXTS), len(EXAMPLES)))
    for row, text in enumerate(TEXTS):
        for column, path in enumerate(EXAMPLES):
            words, image = models.encoder.encode_texts([text]), models.encoder.encode_images([models.encoder.decode(path)])
            similarity[row, column] = words.embeddings[0] @ image.embeddings[0]
            score[row, column] = models.reranker.score_pairs(words.text_side, image.image_side).probability[0]
    models.close()
    assert np.ptp(score) > 10 * SAME_SCORE  # or the comparison would say nothing
    found = model.compare(TEXTS, EXAMPLES)
    np.testing.assert_allclose(found.similarity, similarity, atol=SAME_COSINE)
    np.testing.assert_allclose(found.score, score, atol=SAME_SCORE)
    np.testing.assert_allclose(model.similarity(TEXTS, EXAMPLES), similarity, atol=SAME_COSINE)
    np.testing.assert_allclose(model.score(TEXTS, EXAMPLES), score, atol=SAME_SCORE)
    rows, columns = [0, 2, 1, 1], [3, 3, 17, 0]
    pairs = model.score_pairs([TEXTS[row] for row in rows], [EXAMPLES[column] for column in columns])
    np.testing.assert_allclose(pairs, score[rows, columns], atol=SAME_SCORE)
    assert {found.similarity.dtype, found.score.dtype, pairs.dtype} == {np.dtype(np.float32)}


def test_the_same_as_a_search(model: CoopModel, tmp_path: Path) -> None:
    with CoopIngest("images", uri=tmp_path / "lite.db") as ingest:
        ingest.run(EXAMPLES)
    with CoopSearch("images", uri=tmp_path / "lite.db") as search:
        hits = {Path(hit.uri): hit for hit in search.query(TEXTS[0], limit=len(EXAMPLES))}
    found = model.compare(TEXTS[:1], EXAMPLES)
    assert found.score[0] == pytest.approx([hits[path].ce_score for path in EXAMPLES], abs=SAME_SCORE)
    assert found.similarity[0] == pytest.approx([hits[path].be_score for path in EXAMPLES], abs=SAME_COSINE)


def test_the_right_text_wins(model: CoopModel) -> None:
    images = [EXAMPLES[0].parent / name for name in ("apple.jpg", "dog.jpg", "sailing_boat.jpg")]
    score = model.score(["a red apple", "a dog", "a boat on the water"], images)
    assert score.argmax(axis=0).tolist() == [0, 1, 2]
    assert score.argmax(axis=1).tolist() == [0, 1, 2]


def test_every_form_of_an_image(model: CoopModel, drawn: list[Path]) -> None:
    path = drawn[0]
    pixels = Image.open(path)
    with path.open("rb") as file:
        forms: list[Any] = [path, str(path), path.read_bytes(), pixels, io.BytesIO(path.read_bytes()), file, pixels.convert("RGBA")]
        rows = model.embed_images(forms)
    np.testing.assert_allclose(rows, np.repeat(rows[:1], len(forms), axis=0), atol=1e-5)
    assert not np.allclose(rows[0], model.embed_images(drawn[1:2])[0], atol=1e-3)


def test_any_iterable(fake: CoopModel, drawn: list[Path]) -> None:
    expected = fake.compare(TEXTS, drawn)
    by_generator = fake.compare((text for text in TEXTS), (str(path) for path in drawn))
    np.testing.assert_array_equal(by_generator.score, expected.score)
    np.testing.assert_array_equal(fake.similarity(dict.fromkeys(TEXTS).keys(), tuple(drawn)), by_generator.similarity)
    np.testing.assert_array_equal(fake.score_pairs(iter(TEXTS), iter(drawn[:3])), np.diagonal(expected.score[:, :3]))


@pytest.mark.parametrize("n", [0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 1])
def test_any_number_of_images(fake: CoopModel, drawn: list[Path], n: int) -> None:
    rows = [fake.embed_images([path])[0] for path in drawn[:n]]
    np.testing.assert_array_equal(fake.embed_images(drawn[:n]), np.reshape(rows, (n, fake.spec.dim)))
    assert fake.score(TEXTS, drawn[:n]).shape == (len(TEXTS), n)


def test_nothing(fake: CoopModel, drawn: list[Path]) -> None:
    assert fake.embed_texts([]).shape == (0, fake.spec.dim)
    assert fake.embed_images([]).shape == (0, fake.spec.dim)
    assert fake.score([], drawn).shape == fake.similarity([], drawn).shape == (0, len(drawn))
    assert fake.score(TEXTS, []).shape == (len(TEXTS), 0)
    assert fake.score_pairs([], []).shape == (0,)


def test_many_texts(fake: CoopModel, drawn: list[Path]) -> None:
    """More than the text encoder takes at once, with a padding of their own in each batch."""
    n = 2 * fake.spec.graph(TEXT_ENCODER).max_batch + 1
    texts = [f"{'a long ' * (i // 10)}text number {i}" for i in range(n)]
    score = fake.score(texts, drawn[:3])
    assert score.shape == (n, 3)
    for row in (0, n // 2, n - 1):
        np.testing.assert_allclose(fake.score(texts[row : row + 1], drawn[:3])[0], score[row], atol=1e-6)


def test_each_text_and_image_is_encoded_once(fake: CoopModel, backend: FakeBackend, drawn: list[Path]) -> None:
    fake.score(TEXTS, drawn)
    pairs = len(TEXTS) * len(drawn)
    assert backend.rows == {TEXT_ENCODER: len(TEXTS), IMAGE_ENCODER: len(drawn), CROSS_ENCODER: pairs}
    backend.rows.clear()
    fake.similarity(TEXTS, drawn)
    assert backend.rows == {TEXT_ENCODER: len(TEXTS), IMAGE_ENCODER: len(drawn)}
    backend.rows.clear()
    captions = [f"caption {i}" for i in range(5 * 4)]
    fake.score_pairs(captions, [path for path in drawn[:4] for _ in range(5)])
    assert backend.rows == {TEXT_ENCODER: 20, IMAGE_ENCODER: 4, CROSS_ENCODER: 20}
    backend.rows.clear()
    fake.score_pairs(["one"] * BATCH, drawn[:BATCH])
    assert backend.rows[TEXT_ENCODER] == 1


def test_one_path_thousands_of_times(fake: CoopModel, backend: FakeBackend, drawn: list[Path]) -> None:
    """Its batches are bounded too, and every position has its own row."""
    texts = [f"text {i}" for i in range(1000)]
    scores = fake.score_pairs(texts, [drawn[0]] * 1000)
    assert backend.rows[IMAGE_ENCODER] < 10
    np.testing.assert_allclose(scores, fake.score(texts, drawn[:1])[:, 0], atol=1e-6)


def test_an_object_that_changes_is_read_when_it_comes(fake: CoopModel, drawn: list[Path]) -> None:
    """A generator may use one Pillow image for all, and a list may hold the same open file twice."""
    with Image.open(drawn[0]) as first:
        canvas = first.convert("RGB")

    def frames() -> Iterator[Image.Image]:
        for path in drawn[:5]:
            with Image.open(path) as image:
                canvas.paste(image)
            yield canvas

    np.testing.assert_array_equal(fake.embed_images(frames()), fake.embed_images(drawn[:5]))
    with drawn[0].open("rb") as file:
        twice = fake.embed_images([io.BytesIO(drawn[0].read_bytes()), file])
    np.testing.assert_array_equal(twice[0], twice[1])


def test_images_are_taken_as_they_are_needed(fake: CoopModel, backend: FakeBackend, drawn: list[Path]) -> None:
    waiting = []

    def images() -> Iterator[bytes]:
        for i in range(10 * BATCH):
            waiting.append(i - backend.rows.get(IMAGE_ENCODER, 0))
            yield drawn[i % len(drawn)].read_bytes()

    assert len(fake.embed_images(images())) == 10 * BATCH
    assert max(waiting) <= 3 * BATCH


def test_large_products_are_scored_in_portions(
    fake: CoopModel, backend: FakeBackend, drawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fake.score(TEXTS, drawn)
    runs: list[int] = []
    run = backend.run

    def counted(graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        if graph == CROSS_ENCODER:
            runs.append(len(next(iter(inputs.values()))))
        return run(graph, inputs, timeout_s=timeout_s)

    monkeypatch.setattr(backend, "run", counted)
    monkeypatch.setattr(reranker_module, "PAIRS_PER_RUN", 7)
    np.testing.assert_array_equal(fake.score(TEXTS, drawn), expected)
    assert max(runs) == 7
    runs.clear()
    monkeypatch.setattr(reranker_module, "BYTES_PER_RUN", 1)
    np.testing.assert_array_equal(fake.score(TEXTS, drawn[:2]), expected[:, :2])
    assert runs == [1] * (2 * len(TEXTS))


@pytest.mark.parametrize("keep", ["collection", "store", "nowhere"])
def test_every_way_to_keep_tokens(tmp_path: Path, drawn: list[Path], keep: Any) -> None:
    make_bundle(tmp_path / "reference", "collection")
    texts = ["a red dog", "the cat on the beach", "blue"]
    with CoopModel(tmp_path / "reference") as reference:
        expected = reference.compare(texts, drawn)
    make_bundle(tmp_path / keep, keep)
    with CoopModel(tmp_path / keep) as model:
        found = model.compare(texts, drawn)
        np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)
        np.testing.assert_allclose(found.score, expected.score, atol=5e-3)  # without quantisation for "nowhere"
        np.testing.assert_allclose(model.similarity(texts, drawn), expected.similarity, atol=1e-5)
        pairs = model.score_pairs(texts, drawn[:3])
        np.testing.assert_allclose(pairs, np.diagonal(found.score[:, :3]), atol=1e-5)
    assert np.ptp(expected.score) > 0.1


def test_threads(model: CoopModel) -> None:
    expected = model.compare(TEXTS, EXAMPLES[:6])

    def work(_: int) -> None:
        found = model.compare(TEXTS, EXAMPLES[:6])
        np.testing.assert_allclose(found.score, expected.score, atol=1e-5)
        np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(12)))


LONE: list[Callable[[Path], Any]] = [
    str,
    lambda path: path,
    lambda path: path.read_bytes(),
    lambda path: Image.open(path).convert("RGB"),
    lambda path: io.BytesIO(path.read_bytes()),
]


@pytest.mark.parametrize("form", LONE, ids=["str", "Path", "bytes", "Pillow", "file"])
def test_a_lone_image_is_refused(fake: CoopModel, backend: FakeBackend, form: Callable[[Path], Any]) -> None:
    image = form(EXAMPLES[0])
    calls: Sequence[Callable[[], Any]] = (
        lambda: fake.embed_images(image),
        lambda: fake.similarity(TEXTS, image),
        lambda: fake.score(TEXTS, image),
        lambda: fake.score_pairs(TEXTS, image),
    )
    for call in calls:
        with pytest.raises(InvalidArgumentError, match=r"images is .*; expected: a list of images"):
            call()
    assert backend.rows == {}


@pytest.mark.parametrize("lone", ["a dog", b"a dog"])
def test_a_lone_text_is_refused(fake: CoopModel, lone: Any) -> None:
    calls: Sequence[Callable[[], Any]] = (
        lambda: fake.embed_texts(lone),
        lambda: fake.similarity(lone, EXAMPLES[:1]),
        lambda: fake.score(lone, EXAMPLES[:1]),
        lambda: fake.score_pairs(lone, EXAMPLES[:1]),
    )
    for call in calls:
        with pytest.raises(InvalidArgumentError, match=r"texts is .*; expected: a list of texts"):
            call()


@pytest.mark.parametrize(
    ("texts", "images", "message"),
    [
        (["x", " "], [], "text 1: the text is empty"),
        (["x", 3], [], "text 1: the text is 3; expected: a string"),
        (["x" * 20_001], [], "text 0: the text has 20,001 characters"),
        (["x", "\ud800"], [], "text 1: the text is not valid Unicode"),
        (None, [], "texts is None; expected: a list"),
        (["x"], 7, "images is 7; expected: a list"),
        (["x"], [EXAMPLES[0], None], "image 1 is of type NoneType; expected: a path"),
        (["x"], [np.zeros((4, 4, 3), np.uint8)], "image 0 is of type ndarray; expected: a path"),
    ],
)
def test_what_is_no_text_or_image(fake: CoopModel, texts: Any, images: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        fake.score(texts, images)
    assert message in str(caught.value)


def test_an_image_that_cannot_be_used_is_named(fake: CoopModel, drawn: list[Path], broken: Path, tmp_path: Path) -> None:
    cases: dict[str, Any] = {
        f"image 2 ({broken}) cannot be read": broken,
        f"image 2 ({tmp_path / 'missing.jpg'}) cannot be read: No such file": str(tmp_path / "missing.jpg"),
        f"image 2 ({tmp_path}) is a folder": tmp_path,
        "image 2 (https://example.com/a.jpg) is a URL, and URLs are not fetched": "https://example.com/a.jpg",
        "image 2 is an empty path": "",
        "image 2: not an image": b"not an image",
        "image 2: the file is empty": io.BytesIO(),
        "image 2 cannot be read: image file is truncated": Image.open(io.BytesIO(broken.read_bytes())),
        "image 2: it has no pixels": Image.new("RGB", (0, 5)),
    }
    for message, image in cases.items():
        for call in (
            fake.embed_images,
            lambda images: fake.score_pairs(["x"] * 4, images),
            lambda images: fake.score(TEXTS, images),
        ):
            with pytest.raises(ImageUnreadableError) as caught:
                call([*drawn[:2], image, drawn[2]])
            assert str(caught.value).startswith(message)


def test_images_that_cannot_be_used_can_be_left_out(fake: CoopModel, drawn: list[Path], broken: Path) -> None:
    images: list[Any] = [*drawn[:3], broken, *drawn[3:], b"", broken, *[broken] * (2 * BATCH)]  # the last batch has none
    good = [i for i, image in enumerate(images) if image in drawn]
    bad = [i for i in range(len(images)) if i not in good]
    told: list[int] = []

    def on_error(position: int, error: ImageError) -> None:
        assert error.given.startswith("image ")
        told.append(position)

    rows = fake.embed_images(images, on_error=on_error)
    assert sorted(told) == bad
    np.testing.assert_array_equal(rows[good], fake.embed_images(drawn))
    assert np.isnan(rows[bad]).all()
    found = fake.compare(TEXTS, images, on_error=on_error)
    expected = fake.compare(TEXTS, drawn)
    for matrix, wanted in ((found.score, expected.score), (found.similarity, expected.similarity)):
        np.testing.assert_allclose(matrix[:, good], wanted, atol=1e-6)
        assert np.isnan(matrix[:, bad]).all()
    pairs = fake.score_pairs(["x"] * len(images), images, on_error=on_error)
    assert np.flatnonzero(np.isnan(pairs)).tolist() == bad


def test_pairs_need_as_many_texts_as_images(fake: CoopModel, backend: FakeBackend, drawn: list[Path]) -> None:
    with pytest.raises(InvalidArgumentError, match="3 texts, and 2 images"):
        fake.score_pairs(TEXTS, drawn[:2])
    assert backend.rows == {}
    with pytest.raises(InvalidArgumentError, match="3 texts, and 2 images"):
        fake.score_pairs(TEXTS, iter(drawn[:2]))
    with pytest.raises(InvalidArgumentError, match="3 texts, and more than 3 images"):
        fake.score_pairs(TEXTS, iter(drawn))


def test_an_error_of_the_callers_generator_is_theirs(fake: CoopModel, drawn: list[Path]) -> None:
    def images() -> Iterator[Path]:
        yield from drawn
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fake.embed_images(images())


def test_a_backend_that_fails(fake: CoopModel, backend: FakeBackend, drawn: list[Path]) -> None:
    backend.failures[CROSS_ENCODER] = BackendError("the cross-encoder is away")
    with pytest.raises(BackendError, match="is away"):
        fake.score(TEXTS, drawn)
    assert fake.similarity(TEXTS, drawn).shape == (len(TEXTS), len(drawn))
    backend.failures.clear()
    assert fake.score(TEXTS, drawn).shape == (len(TEXTS), len(drawn))


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "toy")
    with CoopModel(bundle=tmp_path / "toy", threads=1) as model:
        assert model.spec.name == "toy-collection"
    monkeypatch.setenv("MILVUS_COOP_BUNDLE", str(tmp_path / "toy"))
    with CoopModel() as model:
        assert model.spec.name == "toy-collection"
    with CoopModel(settings=Settings(bundle="coop-small")) as model:
        assert model.spec.name == "coop-small"
    with pytest.raises(BundleNotFoundError, match="no bundle 'nonsense'"):
        CoopModel("nonsense")
    with pytest.raises(InvalidArgumentError, match=r"there is no argument 'uri'"):
        CoopModel(uri="lite.db")  # type: ignore[call-arg]
    with pytest.raises(InvalidArgumentError, match="models is 5"):
        CoopModel(models=5)  # type: ignore[arg-type]
    with CoopModel(max_pixels=10) as model, pytest.raises(ImageTooLargeError, match="409 x 512 pixels are too many"):
        model.embed_images(EXAMPLES[:1])
    with pytest.raises(InvalidArgumentError, match="models is 'nonsense'"):
        CoopModel("coop-small", models="nonsense")
    wrong: Mapping[str, Any] = {"models": 7, "settings": "coop-small", "threads": "2", "uri": "./other.db", "max_pixel": 1}
    for name, value in wrong.items():
        with pytest.raises(InvalidArgumentError):
            CoopModel(**{name: value})
    with CoopModel(max_pixels=10) as model, pytest.raises(ImageTooLargeError):
        model.embed_images([Image.new("RGB", (4, 4))])


def test_closing(tmp_path: Path) -> None:
    make_bundle(tmp_path / "toy")
    with CoopModel(tmp_path / "toy") as model:
        assert len(model.embed_texts(["a dog"])) == 1
    model.close()
    calls: Sequence[Callable[[], Any]] = (
        lambda: model.embed_texts(["a dog"]),
        lambda: model.embed_images(EXAMPLES[:1]),
        lambda: model.score([], []),
    )
    for call in calls:
        with pytest.raises(BackendUnavailableError, match="was closed"):
            call()


def test_a_server_that_is_away() -> None:
    with CoopModel(models="triton://127.0.0.1:1", timeout_s=60) as model, pytest.raises(MilvusCoopError, match="cannot be reached"):
        model.embed_texts(["a dog"])
