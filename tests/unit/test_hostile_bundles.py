"""Bundles that mean ill are refused before ONNX Runtime or tokenizers reads them; nothing blocks or allocates much."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from milvus_coop.bundle import BundleSpec, load_bundle
from milvus_coop.bundle.files import GRAPH_BYTES, RECORD_BYTES, hash_content
from milvus_coop.bundle.folder import RECORD, TOKENIZER, WEIGHTS, Bundle
from milvus_coop.bundle.spec import FileSpec, TensorSpec
from milvus_coop.bundle.verify import verify_bundle
from milvus_coop.errors import BundleInvalidError, BundleMismatchError, BundleNotFoundError, InvalidArgumentError
from milvus_coop.models.preprocess.texts import Tokenizer
from tests.toy_bundle import IDS, STORED, make_bundle

Change = Callable[[onnx.ModelProto], object]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with a file of weights that its text encoder reads."""
    made = make_bundle(tmp_path / "bundle")
    made.path(WEIGHTS).write_bytes(bytes(4096))
    change_graph(made, "text_encoder.onnx", outside_at)
    return made


def sign(bundle: Bundle, **changes: Any) -> None:
    """Give the record the hashes of the files as they are, and change fields of it."""
    files = {
        name: hash_content(bundle.path(name).read_bytes()) for name in (*bundle.spec.files, WEIGHTS) if bundle.path(name).is_file()
    }
    bundle.path(RECORD).write_text(dataclasses.replace(bundle.spec, files=files, **changes).to_json(), encoding="utf-8")


def load_record(bundle: Bundle) -> BundleSpec:
    return BundleSpec.from_json(bundle.path(RECORD).read_bytes())


def change_graph(bundle: Bundle, file: str, change: Change) -> None:
    model = onnx.load(str(bundle.path(file)), load_external_data=False)
    change(model)
    bundle.path(file).write_bytes(model.SerializeToString())
    sign(bundle)


def outside_at(model: onnx.ModelProto, **changes: object) -> None:
    """Move the weights of the words into the file of weights. `changes` are other entries of their place."""
    tensor = model.graph.initializer[0]
    length = len(tensor.raw_data) or next(int(entry.value) for entry in tensor.external_data if entry.key == "length")
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": WEIGHTS, "offset": 0, "length": length, **changes}.items():
        tensor.external_data.add(key=key, value=str(value))


def add_node(model: onnx.ModelProto, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> None:
    model.graph.node.append(helper.make_node(operator, inputs, ["extra"], domain=domain, **attributes))


def nested(depth: int) -> onnx.GraphProto:
    graph = helper.make_graph([], "innermost", [], [])
    for _ in range(depth):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["o"], then_branch=graph, else_branch=graph)], "g", [], [])
    return graph


def set_dims(model: onnx.ModelProto, *dims: int) -> None:
    model.graph.initializer[-1].dims[:] = dims


def twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def spread(model: onnx.ModelProto) -> None:
    """Two small weights whose product is large."""
    for name, shape in (("tall", [10_000, 1]), ("wide", [1, 10_000])):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, shape, [0.0] * 10_000))
    add_node(model, "Mul", "tall", "wide")


def shared(model: onnx.ModelProto) -> None:
    """The same bytes again and again, each time as weights of their own."""
    for number in range(30_000):
        model.graph.initializer.append(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"copy{number}"
        model.graph.initializer[-1].data_type = TensorProto.INT8
        model.graph.initializer[-1].dims[:] = [4096]
        model.graph.initializer[-1].external_data[2].value = "4096"


GRAPHS: list[tuple[str, Change, str]] = [
    ("absolute", lambda m: outside_at(m, location="/etc/passwd"), "are in '/etc/passwd'; expected: one of the bundle's files"),
    ("parent", lambda m: outside_at(m, location="../weights.bin"), r"are in '\.\./weights\.bin'"),
    ("memory", lambda m: outside_at(m, location="*/_ORT_MEM_ADDR_/*"), "are in"),
    ("beyond", lambda m: outside_at(m, offset=4000), "end at byte 4,704 of weights.bin; expected: at most 4,096"),
    ("negative", lambda m: outside_at(m, offset=-1), "from '-1'"),
    ("long", lambda m: outside_at(m, length=2**40), "bytes, as their shape says"),
    ("digits", lambda m: outside_at(m, length="9" * 5000), "bytes, as their shape says"),
    ("prepacked", lambda m: outside_at(m, prepacked_0="a|0|9"), "have the entry 'prepacked_0'"),
    ("huge", lambda m: set_dims(m, 2**40, 2**40), "very many, as their shape says"),
    ("short", lambda m: set_dims(m, 0), "expected: 0, as their shape says"),
    ("below zero", lambda m: set_dims(m, -1), "at most 16 axes of length 0 or more"),
    ("axes", lambda m: set_dims(m, *[1] * 100), "at most 16 axes"),
    ("twice", twice, "are there twice"),
    ("spread", spread, r"Mul of weights of the shapes \[\(10000, 1\), \(1, 10000\)\]"),
    ("shared", shared, "the weights have 122,880,.* values; expected: at most"),
    ("domain", lambda m: add_node(m, "Mul", "w0", domain="evil"), "the operator 'Mul' is of 'evil'"),
    ("operator", lambda m: add_node(m, "ConstantOfShape", "w0"), "the operator 'ConstantOfShape' is not allowed"),
    ("weights alone", lambda m: add_node(m, "Tile", "w0", "w1"), "Tile reads weights alone"),
    ("subgraph", lambda m: add_node(m, "Cast", "input_ids", to=nested(1)), "the attribute 'to' of Cast is no number or text"),
    ("depth", lambda m: add_node(m, "Cast", "input_ids", to=nested(12)), "the attribute 'to' of Cast is no number or text"),
    ("tensor", lambda m: add_node(m, "Cast", "input_ids", to=m.graph.initializer[0]), "is no number or text"),
    ("order", lambda m: add_node(m, "Cast", "extra"), "reads 'extra', which no node before it makes"),
    ("again", lambda m: m.graph.node.append(m.graph.node[0]), "a second time"),
    ("functions", lambda m: m.functions.append(onnx.FunctionProto(name="f")), "one plain graph"),
    ("nodes", lambda m: [m.graph.node.append(m.graph.node[0]) for _ in range(20_001)], "at most 20,000"),
    ("input", lambda m: setattr(m.graph.input[0], "name", "ids"), r"the inputs are \['ids', 'attention_mask'\]"),
    ("dtype", lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 6), r"element type 6; expected: 7 \(int64\)"),
    ("rank", lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=3), r"the shape \[-1, -1, 3\]"),
    ("batch", lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[0], "dim_value", 1), r"the shape \[1, 16\]"),
    ("outputs", lambda m: m.graph.output.append(m.graph.output[0]), "the outputs are"),
    ("no output", lambda m: m.graph.node[-1].output.__setitem__(0, "extra"), "no node makes the output 'text_embedding'"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in GRAPHS], ids=[case[0] for case in GRAPHS])
def test_graphs(bundle: Bundle, change: Change, message: str) -> None:
    change_graph(bundle, "text_encoder.onnx", change)
    with pytest.raises(BundleInvalidError, match=message) as caught:
        load_bundle(bundle.folder)
    assert len(str(caught.value)) < 2000


def test_weights_beside_the_graph_are_fine(bundle: Bundle) -> None:
    assert load_bundle(bundle.folder).spec.files.keys() > {WEIGHTS}


def test_deep_protobuf(bundle: Bundle) -> None:
    """Each level is an attribute with a graph with a node. protobuf's parser gives up, and so would ONNX Runtime's."""
    inner = b""
    for _ in range(2000):
        for tag in (0x2A, 0x0A, 0x32):  # a node's attributes, a graph's nodes, an attribute's graph
            size, varint = len(inner), b""
            while size > 127:
                varint, size = varint + bytes([size & 127 | 128]), size >> 7
            inner = bytes([tag]) + varint + bytes([size]) + inner
    bundle.path("text_encoder.onnx").write_bytes(b"\x3a" + inner[1:])
    sign(bundle)
    with pytest.raises(BundleInvalidError):
        load_bundle(bundle.folder)


def pipe(bundle: Bundle, name: str) -> None:
    bundle.path(name).unlink()
    os.mkfifo(bundle.path(name))


def outside_link(bundle: Bundle, name: str) -> None:
    target = bundle.folder.parent / f"outside-{name}"
    shutil.move(bundle.path(name), target)
    bundle.path(name).symlink_to(target)


@pytest.mark.parametrize("name", [RECORD, TOKENIZER, WEIGHTS, "text_encoder.onnx"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (outside_link, "is a link to a file outside the bundle"),
        (pipe, "is no plain file"),
        (lambda bundle, name: (bundle.path(name).unlink(), bundle.path(name).mkdir()), "is no plain file"),
        (lambda bundle, name: (bundle.path(name).unlink(), bundle.path(name).symlink_to(name)), "cannot be read|is missing"),
        (lambda bundle, name: (bundle.path(name).unlink(), bundle.path(name).symlink_to("/dev/zero")), "outside the bundle"),
    ],
    ids=["link", "pipe", "folder", "loop", "device"],
)
def test_places(bundle: Bundle, name: str, spoil: Callable[[Bundle, str], object], message: str) -> None:
    spoil(bundle, name)
    with pytest.raises(BundleInvalidError, match=message):
        load_bundle(bundle.folder)


def test_links_inside_the_folder(bundle: Bundle) -> None:
    """Kubernetes mounts volumes like this."""
    (bundle.folder / "data").mkdir()
    for name in (RECORD, *bundle.spec.files, WEIGHTS):
        shutil.move(bundle.path(name), bundle.folder / "data" / name)
        bundle.path(name).symlink_to(Path("data", name))
    link = bundle.folder.parent / "link"
    link.symlink_to(bundle.folder)
    assert load_bundle(link).spec.name == bundle.spec.name


@pytest.mark.parametrize(("name", "size"), [(RECORD, RECORD_BYTES), ("text_encoder.onnx", GRAPH_BYTES), (TOKENIZER, 2**40)])
def test_sizes(bundle: Bundle, name: str, size: int) -> None:
    """The files have holes, so that they take no room; they would when they are read."""
    with bundle.path(name).open("r+b") as file:
        file.truncate(size + 1)
    if name != RECORD:
        files = {**load_record(bundle).files, name: FileSpec(size + 1, "0" * 64)}
        bundle.path(RECORD).write_text(dataclasses.replace(bundle.spec, files=files).to_json(), encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleInvalidError, match="bytes; expected: at most"):
        load_bundle(bundle.folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"format": 1, "name": ' + b"9" * 5000 + b"}", "is not JSON|name is"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"format": 1, "lineage": ' + b"[" * 500 + b"]" * 500 + b"}", "inside each other; expected: at most 32"),
        (b'{"format": 1, "graphs": [' + b",".join([b"{}"] * 100_000) + b"]}", 'the field "name" is missing'),
    ],
    ids=["encoding", "number", "depth", "deep lineage", "many"],
)
def test_records(bundle: Bundle, text: bytes, message: str) -> None:
    bundle.path(RECORD).write_bytes(text)
    with pytest.raises(BundleInvalidError, match=message):
        load_bundle(bundle.folder)


def test_a_name_that_no_file_can_have(bundle: Bundle) -> None:
    sign(bundle)
    files = {**load_record(bundle).files, "\U00020000" * 100: FileSpec(1, "0" * 64)}
    bundle.path(RECORD).write_text(dataclasses.replace(bundle.spec, files=files).to_json(), encoding="utf-8")
    with pytest.raises(BundleInvalidError, match="cannot be read: File name too long"):
        load_bundle(bundle.folder)


def other(graph: int, side: str, *tensors: TensorSpec) -> Callable[[BundleSpec], BundleSpec]:
    """Give a graph other inputs or outputs."""

    def change(spec: BundleSpec) -> BundleSpec:
        graphs = list(spec.graphs)
        sides: dict[str, Any] = {side: tensors}
        graphs[graph] = dataclasses.replace(graphs[graph], **sides)
        return dataclasses.replace(spec, graphs=tuple(graphs))

    return change


TEXT, IMAGE, CROSS = range(3)
ROLES: list[tuple[Callable[[BundleSpec], BundleSpec], str]] = [
    (lambda spec: dataclasses.replace(spec, graphs=spec.graphs[:2]), r"the graphs are \['text_encoder', 'image_encoder'\]"),
    (lambda spec: dataclasses.replace(spec, graphs=()), "the graphs are"),
    (lambda spec: dataclasses.replace(spec, dim=17), r"text_embedding, is float32 \[16\]; expected: float32 \[17\]"),
    (other(TEXT, "outputs"), "text_encoder has no text_embedding"),
    (other(TEXT, "inputs", TensorSpec("ids", "int64", (-1,))), "an input of text_encoder is 'ids'"),
    (other(TEXT, "inputs", *IDS, IDS[0]), "an input of text_encoder is 'input_ids'; expected: each at most once"),
    (other(IMAGE, "outputs", TensorSpec("image_embedding", "float32", (16,))), "image_encoder has no image_tokens"),
    (other(IMAGE, "inputs", TensorSpec("pixel_values", "uint8", (3, 16384, 16384))), r"is uint8 \[3, 16384, 16384\]"),
    (other(CROSS, "inputs", *IDS), "cross_encoder has no image_tokens"),
    (other(CROSS, "inputs", *STORED), "cross_encoder reads nothing of a text"),
    (other(CROSS, "outputs", TensorSpec("match_probability", "float32", (2,))), r"match_probability, is float32 \[2\]"),
    (other(TEXT, "outputs", *(TensorSpec(f"o{n}", "float32", ()) for n in range(17))), "is one of 17; expected: at most 16"),
    (
        other(TEXT, "outputs", TensorSpec("text_embedding", "float32", (16,)), TensorSpec("t", "float32", (2**20, 2**20))),
        r"t of text_encoder has the shape \(1048576, 1048576\)",
    ),
    (other(TEXT, "outputs", TensorSpec("t", "float32", (1,) * 9)), "at most 8 axes"),
]


@pytest.mark.parametrize(("change", "message"), ROLES, ids=[str(number) for number in range(len(ROLES))])
def test_roles(bundle: Bundle, change: Callable[[BundleSpec], BundleSpec], message: str) -> None:
    bundle.path(RECORD).write_text(change(load_record(bundle)).to_json(), encoding="utf-8")
    with pytest.raises(BundleInvalidError, match=message):
        load_bundle(bundle.folder)


def test_every_file_but_the_weights_is_hashed(bundle: Bundle) -> None:
    bundle = load_bundle(bundle.folder)
    bundle.path(WEIGHTS).write_bytes(b"1" * 4096)
    load_bundle(bundle.folder)
    with pytest.raises(BundleInvalidError, match=r"weights\.bin is damaged"):
        bundle.verify()
    with pytest.raises(BundleInvalidError, match=r"weights\.bin is damaged"):
        load_bundle(f"{bundle.folder}@{bundle.spec.fingerprint}")
    for name in (TOKENIZER, "cross_encoder.onnx"):
        content = bundle.path(name).read_bytes()
        bundle.path(name).write_bytes(content[:-1] + b"1")
        with pytest.raises(BundleInvalidError, match=f"{name} is damaged"):
            load_bundle(bundle.folder)
        bundle.path(name).write_bytes(content)


def test_pins() -> None:
    shipped = load_bundle("coop-small")
    pinned = f"coop-small@{shipped.spec.fingerprint}"
    assert load_bundle(pinned).spec.fingerprint == shipped.spec.fingerprint
    with pytest.raises(BundleMismatchError, match="expected: the fingerprint 0000"):
        load_bundle("coop-small@" + "0" * 32)
    for no_pin in (pinned[:-1], pinned.upper(), "coop-small@", "@" + "0" * 32):
        with pytest.raises(BundleNotFoundError):
            load_bundle(no_pin)


def test_verify_finds_everything(bundle: Bundle) -> None:
    bundle = load_bundle(bundle.folder)
    right = verify_bundle(bundle.folder, bundle.spec.fingerprint)
    assert (right.problems, set(right.files.values()), right.fingerprint) == ([], {True}, bundle.spec.fingerprint)
    assert "Gather" in right.operators["text_encoder.onnx"]
    bundle.path(WEIGHTS).write_bytes(b"1" * 4096)
    bundle.path(TOKENIZER).unlink()
    wrong = verify_bundle(f"{bundle.folder}@{'1' * 32}", "0" * 32)
    assert [name for name, fits in wrong.files.items() if not fits] == [TOKENIZER, WEIGHTS]
    assert len(wrong.problems) == 4
    bundle.path(RECORD).write_text("{}", encoding="utf-8")
    assert len(verify_bundle(bundle.folder).problems) == 1
    with pytest.raises(InvalidArgumentError, match="the fingerprint is 'abc'; expected: 32 hex digits"):
        verify_bundle(bundle.folder, "abc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is no usable tokenizer"),
        ('{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}, "unk_token": "[UNK]"}}', "is no usable tokenizer"),
    ],
)
def test_tokenizers(bundle: Bundle, content: str, message: str) -> None:
    bundle.path(TOKENIZER).write_text(content, encoding="utf-8")
    with pytest.raises(BundleInvalidError, match=message):
        Tokenizer(bundle.path(TOKENIZER), bundle.spec.text)(["a word"])


def test_opening_loads_no_library_that_could_run_a_graph(bundle: Bundle) -> None:
    code = f"import sys; from milvus_coop import load_bundle; load_bundle({str(bundle.folder)!r}); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("onnxruntime", "onnx", "tokenizers", "torch") if f"'{name}'" in loaded]
