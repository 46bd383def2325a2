"""The folder of a run: writing its files and reading them again. Weights are safetensors, everything else is JSON.

run.json            configuration, versions, git revision, numbers of the data
network.json        sizes of the network
tokenizer.json
problems.jsonl      data that was left out, and why
metrics.jsonl       one line per evaluation
vision/             the backbone, if it is frozen
last/, best/        network.safetensors; last/ also optimiser.safetensors, mined.safetensors and state.json
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from milvus_coop.errors import TrainingError, reason_of
from milvus_coop.offline.datasets import DataProblem
from milvus_coop.offline.training.networks.one_stream import NetworkConfig, OneStream
from milvus_coop.offline.training.networks.vision import Vision, load_vision, save_vision
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.records import parse_file, read_file, read_record

NETWORK = "network.safetensors"
_REPOSITORY = Path(__file__).resolve().parents[4]


@dataclass(frozen=True)
class State:
    """The state of a run: the part of a checkpoint that is not tensors."""

    round: int = 0
    best: float | None = None
    """The best dev score so far."""
    stale: int = 0
    """Number of evaluations since the best dev score."""
    finished: bool = False


class RunFolder:
    """The folder of a run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def tokenizer(self) -> Path:
        """The path of tokenizer.json."""
        return self.path / "tokenizer.json"

    def exists(self) -> bool:
        """True if the folder holds a run."""
        return (self.path / "run.json").is_file()

    def make(self) -> None:
        """Make the folder.

        Raises:
            TrainingError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise TrainingError(f"'{self.path}' cannot be made: {reason_of(exc)}", run="another --run") from exc

    def begin(self, config: TrainConfig, data: Mapping[str, Any]) -> None:
        """Write run.json. From now on the folder holds this run and no other."""
        versions = {"torch": torch.__version__}
        self._write("run.json", {"config": config.to_dict(), "git": _git_revision(), "versions": versions, "data": dict(data)})

    def record(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            TrainingError: there is no run here, or its record is damaged.
        """
        if not self.exists():
            raise TrainingError(f"'{self.path}' is not a run", expected="a folder that `milvus-coop train` made (run.json)")
        content = parse_file(self.path / "run.json", TrainingError)
        if not isinstance(content, dict) or "config" not in content:
            raise TrainingError(f"{self.path / 'run.json'} holds no configuration", expected="what `milvus-coop train` wrote")
        return content

    def config(self) -> TrainConfig:
        """The run's configuration."""
        return read_record(TrainConfig, self.record()["config"], TrainingError, str(self.path / "run.json"))

    def check_same(self, config: TrainConfig) -> None:
        """Refuse to continue the run with another configuration.

        Raises:
            TrainingError: the configurations differ. The message names the difference.
        """
        before, now = self.config().to_dict(), config.to_dict()
        if different := [name for name in now if before.get(name) != now[name]]:
            name = different[0]
            raise TrainingError(
                f"the run in {self.path} was begun with {name} = {before.get(name)}, not {now[name]}",
                expected="the same configuration, to continue it",
                run=f"another --run, or rm -r {self.path}",
            )

    def save_problems(self, problems: Sequence[DataProblem]) -> None:
        """Write the problems: data that was left out, with reasons."""
        lines = [json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems]
        (self.path / "problems.jsonl").write_text("".join(lines), "utf-8")

    def problems(self) -> list[DataProblem]:
        """The problems that `save_problems` wrote."""
        return [DataProblem(**line) for line in _json_lines(self.path / "problems.jsonl")]

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl."""
        return _json_lines(self.path / "metrics.jsonl")

    def cut_metrics(self, last_round: int) -> None:
        """Drop the lines of rounds after the checkpoint from which a run is resumed."""
        kept = [line for line in self.metrics() if line["round"] <= last_round]
        (self.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")

    def save_network_config(self, config: NetworkConfig, frozen: Vision | None) -> None:
        """Write the network's sizes, and its backbone if it is frozen."""
        self._write("network.json", asdict(config))
        if frozen is not None:
            save_vision(frozen, self.path / "vision")

    def save_best(self, network: OneStream) -> None:
        """Write the weights with the best dev score."""
        self._replace("best", {NETWORK: network_state(network)}, None)

    def save_last(self, network: OneStream, optimiser: torch.optim.Optimizer, mined: Mapping[str, Tensor], state: State) -> None:
        """Write a checkpoint from which a run can be resumed."""
        tensors = {
            NETWORK: network_state(network),
            "optimiser.safetensors": optimiser_state(optimiser),
            "mined.safetensors": dict(mined),
        }
        self._replace("last", tensors, state)

    def load_last(self, network: OneStream, optimiser: torch.optim.Optimizer) -> tuple[State, dict[str, Tensor]]:
        """Load the last checkpoint into network and optimiser, and return its state and the mined negatives."""
        folder = self.path / "last"
        if not folder.is_dir():
            return State(), {}
        load_state(network, folder / NETWORK)
        restore_optimiser(optimiser, load_file(folder / "optimiser.safetensors"))
        return self.state(), load_file(folder / "mined.safetensors")

    def state(self) -> State:
        """The state of the last checkpoint."""
        path = self.path / "last" / "state.json"
        return read_file(State, path, TrainingError) if path.is_file() else State()

    def _replace(self, name: str, files: Mapping[str, dict[str, Tensor]], state: State | None) -> None:
        """Write a checkpoint beside the old one and exchange them, so that one of the two is left after a kill."""
        fresh, old = self.path / f"{name}.new", self.path / f"{name}.old"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for file, tensors in files.items():
            save_file(tensors, fresh / file)
        if state is not None:
            (fresh / "state.json").write_text(json.dumps(asdict(state)) + "\n", "utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if (self.path / name).is_dir():
            (self.path / name).rename(old)
        fresh.rename(self.path / name)
        shutil.rmtree(old, ignore_errors=True)

    def recover(self) -> None:
        """Finish an exchange of checkpoints that a kill interrupted."""
        for name in ("last", "best"):
            old = self.path / f"{name}.old"
            if old.is_dir() and not (self.path / name).is_dir():
                old.rename(self.path / name)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        partial = self.path / f"{name}.new"
        partial.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        partial.replace(self.path / name)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file, without a last line that a kill cut off."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def network_state(network: OneStream) -> dict[str, Tensor]:
    """A network's own tensors on the CPU, without a frozen backbone's."""
    frozen = network.vision is None or not any(p.requires_grad for p in network.vision.parameters())
    state = network.state_dict().items()
    return {name: value.detach().cpu().contiguous() for name, value in state if not (frozen and name.startswith("vision."))}


def load_state(network: OneStream, path: Path) -> None:
    """Load the tensors of `network_state`. A frozen backbone keeps its own weights.

    Raises:
        TrainingError: the file belongs to another network.
    """
    try:
        missing, unexpected = network.load_state_dict(load_file(path), strict=False)
    except RuntimeError as exc:
        raise TrainingError(f"{path} does not fit the network: {exc}") from exc
    if unexpected or [name for name in missing if not name.startswith("vision.")]:
        raise TrainingError(f"{path} does not fit the network", expected="the weights of network.json")


def load_network(path: str | Path, checkpoint: str = "best") -> tuple[OneStream, Path]:
    """A trained network with its backbone, in eval mode, and the path of its tokenizer.

    Args:
        path: a run's folder, or a bundle's with its training checkpoint (`training/`).
        checkpoint: `best` or `last`.

    Raises:
        TrainingError: there is no trained network.
    """
    folder = next((f for f in (Path(path), Path(path) / "training") if (f / "network.json").is_file()), None)
    if folder is None or not (folder / checkpoint / NETWORK).is_file():
        raise TrainingError(
            f"'{path}' holds no trained network",
            expected=f"a run or a bundle with {checkpoint}/{NETWORK}",
            run="milvus-coop train --help",
        )
    network = build_network(folder)
    load_state(network, folder / checkpoint / NETWORK)
    return network.eval(), folder / "tokenizer.json"


def build_network(folder: Path) -> OneStream:
    """A network of the sizes in network.json. Its weights are random, except for those of a frozen backbone."""
    config = read_file(NetworkConfig, folder / "network.json", TrainingError)
    frozen = (folder / "vision").is_dir()
    vision = load_vision(folder / "vision") if frozen else Vision(config.vision)
    return OneStream(config, vision.requires_grad_(not frozen))


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and step counts as flat tensors: `<parameter>.<name>`."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": value.detach().cpu().contiguous() for index, slots in state.items() for name, value in slots.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors of `optimiser_state`."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})


def _git_revision() -> str | None:
    """The git revision of the repository that this package runs from. None for an installed package."""
    git = shutil.which("git")
    if git is None or not (_REPOSITORY / ".git").exists():
        return None
    command = [git, "-C", str(_REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
