"""The multilingual recipe at toy size: readers, the rule against leaks, distillation, and a bundle that opens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer as PieceTokenizer

from milvus_coop.bundle import load_bundle
from milvus_coop.export.sessions import open_session, run_graph
from milvus_coop.preprocess.texts import Tokenizer
from milvus_coop.training.coop_small.languages import read_captions, split_stamps
from milvus_coop.training.coop_small.records import Record
from milvus_coop.training.coop_small.sources import STAMPS
from milvus_coop.training.coop_small.workspace import Workspace
from milvus_coop.training.coop_small_multilingual.card import mean_recalls, write_card
from milvus_coop.training.coop_small_multilingual.cldr import read_emoji_names
from milvus_coop.training.coop_small_multilingual.distil import (
    Corpus,
    Recipe,
    distil_loss,
    drop_pieces,
    embed_texts,
    fit_word_basis,
    train_student,
)
from milvus_coop.training.coop_small_multilingual.evaluate import evaluate_languages, languages_of, queries_of
from milvus_coop.training.coop_small_multilingual.export import TEXT_SPEC, check_bundle, write_bundle
from milvus_coop.training.coop_small_multilingual.freedict import read_dictionary
from milvus_coop.training.coop_small_multilingual.packages import PACKAGES
from milvus_coop.training.coop_small_multilingual.parallel import HeldOut, Pair, load_pairs, read_pairs, write_pairs
from milvus_coop.training.coop_small_multilingual.student import Student
from milvus_coop.training.coop_small_multilingual.visible import visible_words
from milvus_coop.training.coop_small_multilingual.vocabulary import piece_ids, train_tokenizer
from tests.training.toy import unit

NOUNS = {"ant": "Ameise", "bee": "Biene", "cat": "Katze", "dog": "Hund", "elk": "Elch", "fox": "Fuchs", "gnu": "Gnu", "hen": "Huhn"}
COLOURS = {"red": "rote", "blue": "blaue", "green": "grüne", "white": "weiße", "black": "schwarze"}
SAME = 1e-5  # one float32 rounding step of a sum over 256 products
PACKED = 0.02  # int8 weights against float32


def _dictionary(folder: Path, name: str, entries: list[str]) -> Path:
    """A FreeDict package with these entries."""
    stem = folder / name / f"usr/share/dictd/{name.removeprefix('dict-')}"
    stem.parent.mkdir(parents=True)
    content, index = b"", []
    for entry in entries:
        raw = entry.encode()
        index.append(f"{entry.split()[0]}\t{_number(len(content))}\t{_number(len(raw))}\n")
        content += raw
    Path(f"{stem}.index").write_text("".join(index), "utf-8")
    with gzip.open(f"{stem}.dict.dz", "wb") as file:
        file.write(content)
    return folder / name


def _number(value: int) -> str:
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return (_number(value // 64) if value >= 64 else "") + digits[value % 64]


def test_dictionary_entries_lose_their_remarks(tmp_path: Path) -> None:
    package = _dictionary(
        tmp_path,
        "dict-freedict-eng-hun",
        [
            'apple /apəl/ <n>\n1. alma, (vad) almafa <masc> [bot.]\n      "an apple"  - egy alma\n   Synonym: {fruit}\n',
            "beards /x/\nI.  <N> 1.  szôr~szál. beard trimmer valami\n",
            "abstractly\nelvontan\n",
        ],
    )
    pairs = list(read_dictionary(package, {"apple", "beard"}))
    assert pairs == [("alma", "apple"), ("almafa", "apple"), ("szőr szál", "beards")]


def test_dictionary_may_have_english_on_the_right(tmp_path: Path) -> None:
    package = _dictionary(tmp_path, "dict-freedict-spa-eng", ["hiena /jena/\nhyaena, hyena\n", "colegio\nacademyofmusic\n"])
    assert list(read_dictionary(package, {"hyena"})) == [("hiena", "hyena")]


def _annotations(package: Path, locale: str, rows: dict[str, Any]) -> None:
    folder = package / "package/annotations" / locale
    folder.mkdir(parents=True)
    (folder / "annotations.json").write_text(json.dumps({"annotations": {"annotations": rows}}), "utf-8")


def test_emoji_names_of_the_wanted_languages(tmp_path: Path) -> None:
    for locale, name in (("en", "dog"), ("en-AU", "dog"), ("no", "hund"), ("pt-PT", "cão"), ("xx", "?")):
        _annotations(tmp_path, locale, {"d": {"tts": [name], "default": [name, "x"]}, "e": {"default": ["no name"]}})
    found = [
        (locale, foreign.name, english.keywords) for locale, foreign, english in read_emoji_names(tmp_path, ["nb", "pt_BR", "en"])
    ]
    assert found == [("no", "hund", ("dog", "x")), ("pt-PT", "cão", ("dog", "x"))]


def test_visible_words_are_things_and_usual_adjectives(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/wordnet"
    folder.mkdir(parents=True)
    nouns = ["  1 licence", "00001 05 n 02 house_cat 0 Felis 0 001 @ 00002 n 0000 | a cat", "00002 09 n 01 idea 0 000 | thought"]
    adjectives = ["red a 2 1 & 2 1 00000001 00000002", "aberrant a 1 1 & 1 0 00000003"]
    (folder / "data.noun").write_text("\n".join(nouns), "latin-1")
    (folder / "index.adj").write_text("\n".join(adjectives), "latin-1")
    assert visible_words(tmp_path) == {"house cat", "felis", "red"}


@pytest.mark.parametrize(
    ("text", "english", "leaks"),
    [
        ("Banane", "banana", True),
        ("Das ist eine Banane!", "Look, a banana", False),
        ("eine  banane", "plantain", True),
        ("Bananenblatt", "banana leaf", False),
    ],
)
def test_no_pair_repeats_a_held_out_caption(text: str, english: str, leaks: bool) -> None:
    assert HeldOut(["A banana.", "Eine Banane."]).leaks(text, english) is leaks


def test_pairs_come_from_all_sources_and_leave_out_leaks(tmp_path: Path) -> None:
    stamps = [
        {"captions": {"en": ["A dog."], "de": ["Ein Hund."]}, "split": "test"},
        {"captions": {"en": ["A cat."], "de": ["Eine Katze."]}, "split": "train"},
    ]
    for locale, names in (("en", ("dog", "cat")), ("de", ("Hundegesicht", "Mieze"))):
        _annotations(
            tmp_path / "cldr-annotations-full",
            locale,
            {key: {"tts": [name], "default": [name]} for key, name in zip("dc", names, strict=True)},
        )
    folder = tmp_path / "wordnet-base/usr/share/wordnet"
    folder.mkdir(parents=True)
    (folder / "data.noun").write_text("00001 05 n 01 dog 0 000 | x\n00002 05 n 01 hen 0 000 | x", "latin-1")
    (folder / "index.adj").write_text("red a 1 0 1 1 00000001", "latin-1")
    _dictionary(tmp_path, "dict-freedict-eng-deu", ["dog\nHund\n", "hen\nHuhn\n"])
    packages = [package for package in PACKAGES if package.name == "dict-freedict-eng-deu"]
    found = read_pairs(tmp_path, packages, stamps, HeldOut(["A dog.", "Ein Hund."]))
    write_pairs(tmp_path / "pairs.jsonl", found)
    assert load_pairs(tmp_path / "pairs.jsonl") == found
    assert found == [
        Pair("stamps", "Eine Katze.", "A cat."),
        Pair("names", "Mieze", "cat"),
        Pair("keywords", "Mieze", "cat"),
        Pair("dictionary", "Huhn", "hen"),
        Pair("english", "A cat.", "A cat."),
        Pair("english", "cat", "cat"),
        Pair("english", "hen", "hen"),
    ]


def test_stamps_like_a_held_out_one_are_in_no_split() -> None:
    dice = np.random.default_rng(0)
    names = ("test", "same caption", "same look", *(f"other {n}" for n in range(10)))
    captions = {"test": "A dog.", "same caption": "dog"}
    records = [Record(name, "stamps", "", (captions.get(name, name),)) for name in names]
    hashes = dice.random((len(names), 64)) < 0.5
    hashes[2] = hashes[0]
    splits = split_stamps(records, hashes, frozenset({"test"}))
    assert splits["test"] == "test"
    assert set(splits) == {"test", *names[3:]}
    assert sorted(splits.values()) == ["dev"] * 2 + ["test"] + ["train"] * 8


def test_captions_in_all_languages(tmp_path: Path) -> None:
    file = tmp_path / STAMPS / "animals/cat.txt"
    file.parent.mkdir(parents=True)
    file.write_text("A cat.\nde.utf8=Eine  Katze.\nfr.utf8=\nnot a caption\npt_BR.utf8=Um gato.\n", "utf-8")
    captions = read_captions(tmp_path, Record("stamps/animals/cat", "stamps", "x.png", ("A cat.",)))
    assert captions == {"en": ["A cat."], "de": ["Eine Katze."], "pt_BR": ["Um gato."]}


def test_queries_are_distinct_captions_with_every_right_picture() -> None:
    rows = [{"id": str(n), "captions": {"en": ["A dog."], "de": [text]}} for n, text in enumerate(("Ein Hund.", "ein hund", "Wau"))]
    assert queries_of(rows, "de") == {"Ein Hund.": {"0", "1"}, "Wau": {"2"}}
    assert languages_of(rows * 50) == ["en", "de"]


def test_text_without_letters_still_has_a_token() -> None:
    tokenizer = train_tokenizer(["eine katze", "ein hund"] * 3, 60)
    [nothing, arabic, plain] = piece_ids(tokenizer, ["...!", "قِطّة", "قطة"], 8)
    assert nothing == [tokenizer.token_to_id("[CLS]")]
    assert arabic == plain


def test_taking_rows_keeps_each_text_together() -> None:
    corpus = Corpus.of([[1, 2, 3], [4], [5, 6]], ["a", "b", "a"], np.arange(3))
    ids, offsets = corpus.take(np.array([2, 0]))
    assert ids.tolist() == [5, 6, 1, 2, 3]
    assert offsets.tolist() == [0, 2]


def test_dropping_pieces_leaves_every_text_its_first() -> None:
    ids, offsets = drop_pieces(np.arange(9), np.array([0, 1, 6]), 1.0, seed=0)
    assert ids.tolist() == [0, 1, 6]
    assert offsets.tolist() == [0, 1, 2]
    assert drop_pieces(np.arange(9), np.array([0, 1, 6]), 0.0, seed=0)[0].tolist() == list(range(9))


def test_other_texts_of_the_same_meaning_are_no_negatives() -> None:
    vectors = torch.eye(3)[[0, 0, 1]]
    loss = distil_loss(vectors, vectors, torch.tensor([7, 7, 8]), scale=1000.0)
    assert loss.item() == pytest.approx(0.0, abs=SAME)


def test_word_basis_maps_sentences_to_the_mean_of_their_words() -> None:
    dice = np.random.default_rng(0)
    sentences, basis = unit(dice.normal(size=(500, 16))), dice.normal(size=(16, 4))
    assert np.allclose(fit_word_basis(sentences, sentences @ basis), basis, atol=0.01)


def test_word_basis_is_small_where_no_sentence_points() -> None:
    dice = np.random.default_rng(0)
    sentences = unit(np.pad(dice.normal(size=(500, 15)), ((0, 0), (0, 1)), constant_values=1e-9))
    assert np.abs(fit_word_basis(sentences, dice.normal(size=(500, 4)))).max() < 10


@pytest.fixture(scope="module")
def trained() -> tuple[Student, PieceTokenizer, Corpus]:
    """A student of colours and animals in German, in a space of the shipped bundle's size."""
    english = [f"{colour} {noun}" for colour in COLOURS for noun in NOUNS]
    german = [f"{COLOURS[text.split()[0]]} {NOUNS[text.split()[1]]}" for text in english]
    dice = np.random.default_rng(0)
    words = {word: dice.normal(size=384) for word in (*COLOURS, *NOUNS)}
    sentences = unit(np.stack([sum(words[word] for word in text.split()) for text in english]))
    tokenizer = train_tokenizer(german, 300)
    corpus = Corpus.of(piece_ids(tokenizer, german, 64), ["names"] * len(german), np.arange(len(german)))
    seen = np.array([n for n in range(len(german)) if n % 9])
    known = Corpus.of(piece_ids(tokenizer, [german[n] for n in seen], 64), ["names"] * len(seen), seen)
    recipe = Recipe(
        vocabulary=tokenizer.get_vocab_size(), width=32, hidden=64, steps=150, batch=64, warm_up=5, shares={"names": 0.5}
    )
    student = train_student(known, sentences, recipe, token_dim=64)
    nearest = (embed_texts(student, corpus, np.arange(len(german))) @ sentences.T).argmax(1)
    assert (nearest == np.arange(len(german)))[seen].all()
    assert (nearest == np.arange(len(german))).all(), "pairs of a colour and an animal that were never seen together"
    student.word_basis.normal_(generator=torch.Generator().manual_seed(0))
    return student, tokenizer, corpus


def test_forward_agrees_with_training_whatever_the_padding(trained: tuple[Student, PieceTokenizer, Corpus]) -> None:
    student, _, corpus = trained
    expected = embed_texts(student, corpus, np.arange(3))
    ids, offsets = corpus.take(np.arange(3))
    rows = [torch.from_numpy(part) for part in np.split(ids, offsets[1:])]
    padded = torch.nn.utils.rnn.pad_sequence([*rows, torch.ones(12, dtype=torch.int64)], batch_first=True, padding_value=5)[:3]
    mask = torch.stack([torch.arange(12) < len(row) for row in rows]).long()
    found, tokens = student(padded, mask)
    assert np.abs(found.numpy() - expected).max() < SAME
    assert torch.equal(tokens[:, 0], tokens[:, -1])


def test_the_bundle_opens_and_pictures_keep_their_vectors(trained: tuple[Student, PieceTokenizer, Corpus], tmp_path: Path) -> None:
    student, tokenizer, _ = trained
    base = load_bundle("coop-small")
    made = write_bundle(tmp_path, base, student, tokenizer, {"from": "a test"})
    made.verify()
    assert made.spec.fingerprint != base.spec.fingerprint
    assert made.spec.lineage["base"] == base.spec.label
    differences = check_bundle(tmp_path, student, ["rote Katze", "blaue Biene"])
    assert all(difference["largest"] < PACKED * 50 for difference in differences.values())
    assert differences["text_embedding"]["smallest_cosine"] > 1 - PACKED
    feeds = Tokenizer(made.path("tokenizer.json"), TEXT_SPEC)(["rote Katze"])
    assert feeds["input_ids"].shape == (1, 8)
    pixels = {"pixel_values": np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), dtype=np.uint8)}
    old, new = (run_graph(open_session(bundle.path("image_encoder.onnx")), pixels) for bundle in (base, made))
    assert all(np.array_equal(old[name], new[name]) for name in old)


def test_languages_are_searched_and_tabled(trained: tuple[Student, PieceTokenizer, Corpus], tmp_path: Path) -> None:
    student, tokenizer, _ = trained
    names = {"red apple": "roter Apfel", "green leaf": "grünes Blatt", "blue sky": "blauer Himmel"}
    rows = []
    for number, (english, german) in enumerate(names.items()):
        Image.new("RGB", (32, 32), english.split()[0]).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "id": str(number), "captions": {"en": [english], "de": [german]}})
    base = load_bundle("coop-small")
    workspace = Workspace(tmp_path / "work", tmp_path / "bundle")
    write_bundle(workspace.bundle, base, student, tokenizer, {"recipe": {"vocabulary": 300}, "pairs": {"names": 40}})
    found = {
        name: evaluate_languages(rows, tmp_path, workspace.folder(name), folder, min_captions=3)
        for name, folder in (("base", base.folder), ("multilingual", workspace.bundle))
    }
    for row in (row for figures in found.values() for row in figures.values()):
        assert row["captions"] == 3
        assert row["be"][2] == row["coop"][2] == 100.0  # three pictures: all are among the first ten
    workspace.write("baseline.json", found["base"])
    workspace.write("evaluate.json", found["multilingual"])
    workspace.write("parity.json", {"text_embedding": {"largest": 0.1, "smallest_cosine": 0.9}})
    write_card(workspace, base)
    assert "| de | 3 | " in (workspace.bundle / "README.md").read_text("utf-8")
    assert load_bundle(workspace.bundle).spec.metrics["held-out stamps"] == found["multilingual"]
    assert mean_recalls({"en": {"be": [0, 0, 0, 0]}, "de": {"be": [1, 2, 3, 4]}, "fr": {"be": [3, 4, 5, 6]}}, "be") == [2, 3, 4]
