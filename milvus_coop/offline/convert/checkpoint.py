"""A checkpoint of transformers, from a folder or the Hugging Face hub. Only safetensors are read, and no foreign code is run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
import torch
from huggingface_hub import errors as hub
from transformers import CONFIG_MAPPING, AutoImageProcessor, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_log

from milvus_coop.errors import ConvertError, quoted
from milvus_coop.offline.convert.catalogue import FAMILIES
from milvus_coop.offline.convert.streaming import open_streamed

Model = TypeVar("Model", bound=PreTrainedModel)

FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "README.md")
"""The files that are downloaded: configuration, tokenizer, weights. Pickles (*.bin, *.pt) and Python files never are."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
CONFIG_BYTES = 2**20
MAX_LAYERS = 256
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with config.json and safetensors."""

    folder: Path
    name: str
    """The hub's id, or the folder's name."""
    revision: str | None
    """The commit that was downloaded. None for a local folder."""
    config: dict[str, Any]
    licence: str
    """The licence that the model card states, or ''."""

    @property
    def model_type(self) -> str:
        """The name of this kind of model in transformers: `blip`, `clip`, ... BridgeTower is published without it."""
        return str(self.config.get("model_type") or _kind_of_classes(self.config))

    def lineage(self) -> dict[str, Any]:
        """The checkpoint's entry in the lineage of a bundle."""
        return {"name": self.name, "revision": self.revision, "model_type": self.model_type, "licence": self.licence}

    def model(self, kind: type[Model]) -> Model:
        """The model with all its weights, float32, in eval mode.

        Raises:
            ConvertError: the files are broken, or lack weights that this kind of model needs. Transformers would fill these in
                with random numbers.
        """
        try:
            with _quiet():
                opened: Any = kind.from_pretrained(
                    str(self.folder),
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    dtype=torch.float32,
                    attn_implementation="eager",
                    output_loading_info=True,
                )
        except Exception as exc:  # safetensors, torch and transformers each raise their own errors
            raise ConvertError(f"{self.name} cannot be loaded as {kind.__name__}: {exc}") from exc
        model, report = opened
        if lacking := sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"]):
            raise ConvertError(
                f"{self.name} lacks {len(lacking)} weights of a {kind.__name__}, such as {lacking[0]}",
                expected="a checkpoint that was trained for retrieval",
            )
        result: Model = model.eval()
        return result

    def streamed_model(self, kind: type[Model], slim: Callable[[Any], None]) -> Model:
        """The model in eval mode, whose large weights stay in their files until they are needed; see `streaming`.

        Args:
            kind: the class of the model. Its layers must read their weights in their own forward pass.
            slim: changes a configuration to one of few layers.

        Raises:
            ConvertError: see `model`.
        """
        try:
            with _quiet():
                known: Any = kind.config_class
                configs = [known.from_pretrained(str(self.folder), local_files_only=True) for _ in range(2)]
                for config in configs:
                    config._attn_implementation = "eager"
                slim(configs[1])
                return open_streamed(self.name, self.folder, kind, *configs)
        except ConvertError:
            raise
        except Exception as exc:  # see `model`
            raise ConvertError(f"{self.name} cannot be loaded as {kind.__name__}: {exc}") from exc

    def processor(self, **unstated: Any) -> Any:
        """The checkpoint's image processor on Pillow, which our preprocessing uses too.

        Args:
            unstated: values of settings that preprocessor_config.json does not state, in place of the defaults of today's class.
        """
        self._need("image processor", ("preprocessor_config.json", "processor_config.json"))
        stated = _read_object(self.folder / "preprocessor_config.json") or {}
        options = {name: value for name, value in unstated.items() if name not in stated}
        return self._auto(AutoImageProcessor, "image processor", backend="pil", **options)

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer. If these files were missing, transformers would make an empty tokenizer."""
        self._need("tokenizer", ("tokenizer.json", "vocab.txt", "vocab.json", "*.model"))
        return self._auto(AutoTokenizer, "tokenizer")

    def _need(self, what: str, patterns: Sequence[str]) -> None:
        if not any(any(self.folder.glob(pattern)) for pattern in patterns):
            raise ConvertError(f"{self.name} has no {what}", expected=f"one of {', '.join(patterns)} in {self.folder}")

    def _auto(self, kind: Any, what: str, **options: Any) -> Any:
        try:
            with _quiet():
                config = CONFIG_MAPPING[self.model_type].from_pretrained(str(self.folder), local_files_only=True)
                options |= {"config": config, "trust_remote_code": False, "local_files_only": True}
                return kind.from_pretrained(str(self.folder), **options)
        except Exception as exc:  # see `model`
            raise ConvertError(f"the {what} of {self.name} cannot be opened: {exc}") from exc


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn off the progress bars of transformers, and its advice, which is about training and about its other backends."""
    level, bars = transformers_log.get_verbosity(), transformers_log.is_progress_bar_enabled()
    transformers_log.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_log.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_log.set_verbosity(level)
        if bars:
            transformers_log.enable_progress_bar()  # type: ignore[no-untyped-call]


def open_checkpoint(name_or_folder: str | Path, revision: str | None = None) -> Checkpoint:
    """Open a local folder, or download a model of the hub. A download stays in the hub's cache.

    Args:
        name_or_folder: a folder with config.json, or an id such as `Salesforce/blip-itm-base-coco`.
        revision: branch, tag or commit of a hub model; by default its main branch. The bundle records the commit.

    Raises:
        ConvertError: there is no such model, it is gated, the hub cannot be reached, or it has no safetensors.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        if revision is not None:
            raise ConvertError(
                f"{folder} is a local folder and has no revision '{revision}'", expected="--revision for hub ids only"
            )
        return _read(folder, folder.resolve().name, None)
    name = str(name_or_folder)
    if not _ID.fullmatch(name) or Path(name).parts[0] in (".", "..") or (len(Path(name).parts) > 1 and folder.parent.is_dir()):
        raise ConvertError(f"there is no folder '{name}'", expected="a checkpoint's folder, or a hub id such as owner/model")
    found = _download(name, revision)
    return _read(found, name, found.name)


def _download(name: str, revision: str | None) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except hub.GatedRepoError as exc:
        raise ConvertError(
            f"{name} is gated",
            expected="an account that was granted access",
            run="accept its terms on its page, then: hf auth login",
        ) from exc
    except hub.RevisionNotFoundError as exc:
        raise ConvertError(f"{name} has no revision '{revision}'", expected="a branch, a tag or a commit") from exc
    except hub.RepositoryNotFoundError as exc:
        raise ConvertError(
            f"the hub has no model '{name}'", expected="a public id, or a token that may read it", run="hf auth login"
        ) from exc
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, hub.HfHubHTTPError, OSError, ValueError) as exc:
        raise ConvertError(
            f"there is no folder {name}, it is not in the hub's cache, and the hub does not answer",
            expected="a network connection, or a checkpoint's folder",
            run="hf download MODEL --local-dir FOLDER on a machine with access, then: milvus-coop bundle convert FOLDER",
        ) from exc


def _read(folder: Path, name: str, revision: str | None) -> Checkpoint:
    path = folder / "config.json"
    config = _read_object(path)
    if config is None:
        raise ConvertError(f"{folder} has no readable config.json", expected="a checkpoint of transformers")
    if (layers := _most_layers(config)) > MAX_LAYERS:
        raise ConvertError(f"{path} asks for {quoted(layers)} layers", expected=f"at most {MAX_LAYERS}")
    if not any(folder.glob("*.safetensors")):
        raise ConvertError(_without_safetensors(folder, name), expected="*.safetensors", run=_SAVE_AGAIN)
    return Checkpoint(folder, name, revision, config, _licence(folder))


def _read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file. None if there is no such file, or something else is in it."""
    try:
        # Reading a named pipe would wait forever.
        text = path.read_text(encoding="utf-8") if path.is_file() and path.stat().st_size <= CONFIG_BYTES else ""
        content = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _most_layers(config: dict[str, Any]) -> int:
    """The largest number of layers in a configuration, or in one inside it. Transformers would make each layer before it fails."""
    found = [value for key, value in config.items() if "layers" in key and isinstance(value, int)]
    inner = [_most_layers(value) for value in config.values() if isinstance(value, dict)]
    return max(found + inner, default=0)


def _kind_of_classes(config: dict[str, Any]) -> str:
    """The kind of model by the names of the classes in a configuration, or in one inside it; '' if no family has such classes."""
    kinds = {CONFIG_MAPPING[kind].__name__.removesuffix("Config"): kind for family in FAMILIES for kind in family.model_types}
    parts = [config, *(value for value in config.values() if isinstance(value, dict))]
    names = [str(name) for part in parts if isinstance(part.get("architectures"), list) for name in part["architectures"]]
    found = [prefix for prefix in kinds if any(name.startswith(prefix) for name in names)]
    return kinds[max(found, key=len)] if found else ""


_SAVE_AGAIN = (
    "--revision refs/pr/N of a pull request that adds safetensors (the hub's bot opens such); or, where you trust the file, on a "
    "machine of its own, with the model's full class: BlipForImageTextRetrieval.from_pretrained(FOLDER).save_pretrained(OTHER)"
)


def _without_safetensors(folder: Path, name: str) -> str:
    pickles = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
    if pickles:
        return f"{name} keeps its weights as {pickles[0]}: loading such a file can run any code, and is refused"
    return f"{name} has no weights as safetensors (pickle files are neither downloaded nor loaded)"


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    if not card.is_file():
        return ""
    found = re.search(r"^---$.*?^license: *([\w.-]+) *$.*?^---$", card.read_text(encoding="utf-8", errors="replace"), re.M | re.S)
    return found.group(1) if found else ""
