"""The whole training at toy size: losses fall, a toy set is learnt, seeds repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from milvus_coop.training.coop_small.cross_encoder import CrossEncoder, agreement
from milvus_coop.training.coop_small.judge import judge
from milvus_coop.training.coop_small.pipeline import Recipe, load_trained, save_trained, train_model
from milvus_coop.training.coop_small.towers import ImageHead, merged_heads
from milvus_coop.training.coop_small.train_cross import CrossRecipe, fit_line, pair_loss, stored_tokens
from milvus_coop.training.coop_small.train_embedding import EmbeddingRecipe, embeddings, train_embedding
from milvus_coop.training.losses import info_nce
from tests.training.toy import toy_basis, toy_dataset, toy_tagger

SMALL = EmbeddingRecipe(parts=2, epochs=30, batch=48, hidden=64, source_weights={})


def _loss(embeddings: np.ndarray, seed: int = 0) -> float:
    dataset = toy_dataset(seed)
    captions = torch.from_numpy(dataset.texts.sentences[dataset.caption_rows])
    labels = torch.from_numpy(dataset.labels)
    logits = 20.0 * torch.from_numpy(embeddings) @ captions.T
    return info_nce(logits, labels[:, None] == labels[None, :]).item()


def test_the_embedding_learns_the_toy_set_and_new_pictures_of_it() -> None:
    dataset, fresh = toy_dataset(0), toy_dataset(1)
    fitted = train_embedding(dataset, SMALL, seed=1)
    head, unseen = fitted.head, fitted.unseen
    assert _loss(embeddings(head, dataset)) < 0.5 * _loss(dataset.tags)
    nearest = (embeddings(head, fresh) @ fresh.texts.sentences.T).argmax(1)
    assert (nearest == fresh.caption_rows).mean() > 0.9
    assert np.allclose(np.linalg.norm(unseen, axis=1), 1.0, atol=1e-5)


def test_cross_fitted_embeddings_do_not_know_their_captions() -> None:
    dataset = toy_dataset(0)
    unseen = train_embedding(dataset, SMALL, seed=1).unseen
    nearest = (unseen @ dataset.texts.sentences.T).argmax(1)
    assert (nearest == dataset.caption_rows).mean() < 0.5  # directions are random: nothing to transfer


def test_the_whole_model_trains_saves_and_loads(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("models")
    dataset, tagger = toy_dataset(0), toy_tagger()
    recipe = Recipe(embedding=SMALL, cross=CrossRecipe(steps=15, clusters=2, warm_up=2))
    trained = train_model(dataset, tagger, recipe)
    save_trained(trained, folder)
    verdict = judge(toy_dataset(1), load_trained(folder, tagger))
    assert verdict.be_text.percent(1) > 90
    assert verdict.coop_text.percent(1) > 90
    assert verdict.gain() == judge(toy_dataset(1), trained).gain()


def test_training_repeats_with_the_same_seed() -> None:
    first, second = (train_embedding(toy_dataset(0), SMALL, seed=3).unseen for _ in range(2))
    assert np.array_equal(first, second)


def test_cross_encoder_starts_as_the_cosine_and_its_loss_falls() -> None:
    torch.manual_seed(0)
    basis = toy_basis()
    model = CrossEncoder(basis)
    dataset = toy_dataset(0)
    # embeddings that say nothing, regions that say everything
    rows = dataset.rows.copy()
    rows[:, :16] = (dataset.texts.sentences[dataset.caption_rows] @ basis.numpy())[:, None]
    tokens = torch.from_numpy(stored_tokens(dataset.tags, rows))
    captions = torch.from_numpy(dataset.caption_rows)
    sentences = torch.from_numpy(dataset.texts.sentences)
    words = torch.from_numpy(dataset.texts.tokens[:, :3].astype(np.float32)) @ basis
    everything = torch.cartesian_prod(torch.arange(8), torch.arange(len(dataset)))
    features = agreement(
        sentences[everything[:, 0]],
        words[everything[:, 0]],
        torch.ones(len(everything), 3, dtype=torch.int64),
        tokens[everything[:, 1]],
        basis,
    ).reshape(8, len(dataset), -1)
    match = torch.arange(8)[:, None] == captions[None, :]
    assert torch.equal(model.score(features), model.scale * features[..., 0])
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = pair_loss(model.score(features), match, torch.tensor(-8.0), 0.5)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_merged_heads_compute_the_mean() -> None:
    torch.manual_seed(0)
    heads = [ImageHead(hidden=16).eval() for _ in range(3)]
    pooled = torch.randn(4, 1280)
    expected = torch.stack([head(pooled) for head in heads]).mean(0)
    assert torch.allclose(merged_heads(heads)(pooled), expected, atol=1e-5)


def test_fit_line_recovers_a_logistic_curve() -> None:
    dice = np.random.default_rng(0)
    scores = dice.normal(size=20_000)
    match = (dice.random(20_000) < 1 / (1 + np.exp(-(1.5 * scores - 2)))).astype(np.float32)
    slope, offset = fit_line(scores, match)
    assert slope == pytest.approx(1.5, abs=0.1)
    assert offset == pytest.approx(-2.0, abs=0.1)
