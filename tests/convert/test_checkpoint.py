"""Opening checkpoints: from folders and from a hub, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants

from milvus_coop.errors import ConvertError
from milvus_coop.offline.convert.checkpoint import open_checkpoint
from milvus_coop.offline.convert.families import open_source
from tests.convert.hub import COMMIT, GATED, serve
from tests.convert.kit import siglip2_tokenizer
from tests.servers.milvus import free_ports

CLIP = "owner/clip"


@pytest.fixture
def clip(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(checkpoint("clip"), tmp_path / "clip"))


def use_hub(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT and HF_HUB_CACHE do when they are set before Python starts."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.fixture
def hub(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that has CLIP, with a card, a pickle and a Python file; gives what it was asked for."""
    (clip / "README.md").write_text("---\nlicense: mit\ntags: [vision]\n---\n# CLIP\n", encoding="utf-8")
    for name in ("pytorch_model.bin", "modeling_clip.py"):
        (clip / name).write_text("not to be touched", encoding="utf-8")
    with serve({CLIP: clip}) as (address, asked):
        use_hub(address, tmp_path / "cache", monkeypatch)
        yield asked


def test_a_folder(clip: Path) -> None:
    opened = open_checkpoint(clip)
    assert (opened.name, opened.revision, opened.model_type, opened.licence) == ("clip", None, "clip", "")
    assert open_source(opened).retriever


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_a_download_is_pinned_and_takes_no_pickles_and_no_code(hub: list[str], revision: str | None) -> None:
    opened = open_checkpoint(CLIP, revision)
    assert (opened.name, opened.revision, opened.licence) == (CLIP, COMMIT, "mit")
    assert opened.lineage()["revision"] == COMMIT
    assert not [path for path in opened.folder.iterdir() if path.suffix in (".bin", ".py")]
    assert not [path for path in hub if path.endswith((".bin", ".py"))]
    assert open_source(opened).retriever


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (CLIP, "v9", "owner/clip has no revision 'v9'; expected: a branch, a tag or a commit"),
        ("owner/clap", None, "the hub has no model 'owner/clap'"),
        (GATED, None, "owner/gated is gated.*accept its terms"),
        ("no/such/folder", None, "there is no folder 'no/such/folder'; expected: a checkpoint's folder, or a hub id"),
        ("../secret", None, "there is no folder '../secret'"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_give(name: str, revision: str | None, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        open_checkpoint(name, revision)


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    use_hub(f"http://127.0.0.1:{port}", tmp_path / "cache", monkeypatch)
    with pytest.raises(ConvertError, match="no folder owner/clip, it is not in the hub's cache, and the hub does not answer"):
        open_checkpoint(CLIP)


def test_offline_with_what_was_downloaded_before(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    open_checkpoint(CLIP)
    n_asked = len(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_checkpoint(CLIP).revision == COMMIT
    assert len(hub) == n_asked


def test_a_pickle_is_refused(clip: Path) -> None:
    for path in clip.glob("*.safetensors"):
        path.unlink()
    torch.save({}, clip / "pytorch_model.bin")
    with pytest.raises(ConvertError, match=r"clip keeps its weights as pytorch_model.bin: loading such a file can run any code"):
        open_checkpoint(clip)


def test_broken_weights(clip: Path) -> None:
    (clip / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 not a header")
    with pytest.raises(ConvertError, match="clip cannot be loaded as CLIPModel"):
        open_source(open_checkpoint(clip))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("tokenizer*", "clip has no tokenizer; expected: one of tokenizer.json"),
        ("preprocessor_config.json", "clip has no image processor"),
    ],
)
def test_files_that_are_not_there_are_not_made_up(clip: Path, pattern: str, message: str) -> None:
    """transformers would make an empty tokenizer, with which every text is the same."""
    for path in [*clip.glob(pattern), *clip.glob("vocab*"), *clip.glob("merges*")]:
        path.unlink()
    with pytest.raises(ConvertError, match=message):
        open_source(open_checkpoint(clip))


def test_a_configuration_that_is_none(clip: Path) -> None:
    (clip / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConvertError, match=r"no readable config.json"):
        open_checkpoint(clip)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "no readable config.json"),
        ('{"a": "' + "x" * 2**20 + '"}', "no readable config.json"),
        ('{"text_config": {"num_hidden_layers": 20000}}', "asks for 20000 layers; expected: at most 256"),
    ],
    ids=["deep", "long", "layers"],
)
def test_a_configuration_that_means_ill(clip: Path, text: str, message: str) -> None:
    (clip / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConvertError, match=message):
        open_checkpoint(clip)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        (68).to_bytes(8, "little") + b'{"w": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0,4]}',
    ],
    ids=["length", "longer than the file", "shape"],
)
def test_weights_whose_header_lies(clip: Path, header: bytes) -> None:
    next(clip.glob("*.safetensors")).write_bytes(header)
    with pytest.raises(ConvertError, match="cannot be loaded as CLIPModel: Error while deserializing header"):
        open_checkpoint(clip).model(transformers.CLIPModel)


def test_a_mistyped_folder_is_not_sent_to_the_hub(clip: Path, hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent.parent)
    with pytest.raises(ConvertError, match="there is no folder"):
        open_checkpoint(f"{clip.parent.name}/clap")
    assert hub == []


def test_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"has no readable config.json"):
        open_checkpoint(tmp_path)


def test_weights_that_are_not_there_are_not_made_up(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A captioning BLIP has no matching head; transformers would start one from random numbers."""
    folder = Path(shutil.copytree(checkpoint("blip"), tmp_path / "captioner"))
    config = transformers.BlipConfig.from_pretrained(folder)
    transformers.BlipModel(config).save_pretrained(folder)
    with pytest.raises(ConvertError, match=r"captioner lacks .* weights of a BlipForImageTextRetrieval, such as itm_head"):
        open_source(open_checkpoint(folder))


def test_an_unknown_kind(clip: Path) -> None:
    config = json.loads((clip / "config.json").read_text(encoding="utf-8"))
    (clip / "config.json").write_text(json.dumps({**config, "model_type": "flava"}), encoding="utf-8")
    with pytest.raises(ConvertError, match="clip is of the kind 'flava'; expected: one of blip, clip"):
        open_source(open_checkpoint(clip))


def test_code_in_a_checkpoint_is_never_run(clip: Path) -> None:
    trap = clip / "ran"
    (clip / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Model: ...\n", encoding="utf-8")
    config = json.loads((clip / "config.json").read_text(encoding="utf-8"))
    traps = {"AutoModel": "evil.Model", "AutoConfig": "evil.Model", "AutoTokenizer": ["evil.Model", None]}
    (clip / "config.json").write_text(json.dumps({**config, "auto_map": traps}), encoding="utf-8")
    open_source(open_checkpoint(clip))
    assert not trap.exists()


def test_siglip_2_reads_lower_case(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Its fixed-resolution checkpoints come with Gemma's tokenizer, which keeps case; training did not."""
    folder = Path(
        shutil.copytree(checkpoint("siglip"), tmp_path / "siglip2", ignore=shutil.ignore_patterns("tokenizer*", "vocab*"))
    )
    plain = siglip2_tokenizer(folder, transformers.GemmaTokenizer)
    assert plain("A Dog")["input_ids"] != plain("a dog")["input_ids"]
    tokenizer = open_source(open_checkpoint(folder)).tokenizer
    assert tokenizer("A Dog")["input_ids"] == plain("a dog")["input_ids"]


def test_a_revision_of_a_folder(clip: Path) -> None:
    with pytest.raises(ConvertError, match="is a local folder and has no revision 'v1'"):
        open_checkpoint(clip, "v1")
