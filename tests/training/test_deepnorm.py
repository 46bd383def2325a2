"""DeepNorm: its two constants, where they go, a deep network that learns with it and not without, and its export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from milvus_coop.errors import TrainingError
from milvus_coop.offline.training.bundling.export import export_run
from milvus_coop.offline.training.networks.transformer import Layer, additive_mask, deepnorm_alpha, deepnorm_beta
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.folder import RunFolder, load_network
from milvus_coop.offline.training.run.start import start_network
from milvus_coop.offline.training.run.trainer import train
from tests.training.colours import config
from tests.training.test_init import save_text

EXACT = 1e-5  # float32 sums in another order
DEEP, WIDTH, WORDS, LENGTH = 24, 32, 8, 6


def test_the_constants_are_the_paper_s() -> None:
    """Wang et al. 2022, table 1, encoder-only, for BERT's 12 layers and for 100."""
    assert deepnorm_alpha(12) == pytest.approx(24**0.25)
    assert deepnorm_beta(12) == pytest.approx(1 / 96**0.25)
    assert deepnorm_alpha(100) == pytest.approx(3.7606, abs=1e-4)
    assert deepnorm_beta(100) == pytest.approx(0.18803, abs=1e-5)


def test_the_weights_that_start_small() -> None:
    torch.manual_seed(0)
    layer, beta = Layer(256, 4, 1024, deepnorm=DEEP), deepnorm_beta(DEEP)
    for name in ("query", "key", "value", "output", "widen", "narrow"):
        part = getattr(layer, name)
        xavier = (2 / (part.in_features + part.out_features)) ** 0.5
        gain = 1.0 if name in {"query", "key"} else beta
        assert part.weight.std().item() == pytest.approx(gain * xavier, rel=0.02)
        assert not part.bias.any()


@torch.no_grad()
def test_a_layer_keeps_alpha_times_its_input() -> None:
    torch.manual_seed(0)
    layer = Layer(16, 2, 32, deepnorm=8)
    states, mask = torch.randn(2, 5, 16), additive_mask(torch.ones(2, 5))
    middle = layer.output_norm(2.0 * states + layer._attend(states, mask))  # (2 * 8) ** (1 / 4)
    wanted = layer.final_norm(2.0 * middle + layer._feed(middle))
    assert torch.allclose(layer(states, mask), wanted, atol=EXACT)


def test_a_layer_cannot_be_both() -> None:
    with pytest.raises(ValueError, match="either pre-norm or DeepNorm"):
        Layer(16, 2, 32, norm_first=True, deepnorm=8)


def learnt(deepnorm: int, steps: int = 100) -> float:
    """Mean loss of the last 20 steps of a deep network that has to say, at its first place, which word stands at its fourth."""
    torch.manual_seed(0)
    words, places, norm = nn.Embedding(WORDS + 1, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH)), nn.LayerNorm(WIDTH)
    layers = nn.ModuleList(Layer(WIDTH, 2, 2 * WIDTH, deepnorm=deepnorm) for _ in range(DEEP))
    head = nn.Linear(WIDTH, WORDS)
    parameters = [*words.parameters(), places, *layers.parameters(), *head.parameters()]
    optimiser, mask = torch.optim.Adam(parameters, lr=3e-3), additive_mask(torch.ones(32, LENGTH))
    losses = []
    for _ in range(steps):
        ids = torch.randint(WORDS, (32, LENGTH))
        ids[:, 0] = WORDS
        states = norm(words(ids) + places)
        for layer in layers:
            states = layer(states, mask)
        loss = nn.functional.cross_entropy(head(states[:, 0]), ids[:, 3])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


def test_24_layers_learn_with_it_and_not_without() -> None:
    """A guess has a loss of log 8 = 2.08."""
    assert learnt(DEEP) < 0.5
    assert learnt(0) > 1.9


def test_a_deepnorm_run_trains_and_is_exported(colours: Path, tmp_path: Path) -> None:
    train(config(colours, norm="deepnorm", layers=6, rounds=4, eval_every=4), tmp_path / "run")
    network, _ = load_network(tmp_path / "run")
    assert (network.config.deepnorm, network.config.norm_first) == (True, False)
    assert [layer.alpha for layer in network.layers if isinstance(layer, Layer)] == [12**0.25] * 6
    assert RunFolder(tmp_path / "run").config().norm == "deepnorm"
    made = export_run(tmp_path / "run", tmp_path / "bundle", precision="fp32")
    assert max(difference.largest for difference in made.differences.values()) < 1e-4


@pytest.mark.parametrize("ours", [False, True])
def test_weights_that_start_another_way_are_refused(ours: bool, be_run: Path, tmp_path: Path) -> None:
    init = be_run if ours else save_text(tmp_path / "bert", "bert")
    run = RunFolder(tmp_path / "run")
    run.make()
    given = "pre" if ours else "post"
    with pytest.raises(TrainingError, match=f"norm is deepnorm, and that of .* is {given}"):
        start_network(TrainConfig("be", "unused", init=str(init), norm="deepnorm"), run, [])
    again = start_network(TrainConfig("be", "unused", init=str(init), norm=given, image_size=0 if ours else 32), run, [])  # type: ignore[arg-type]
    assert again.config.norm_first == ours
