"""How well composite scenes are found, by what their captions are about, and by whether training showed their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from milvus_coop.training.coop_small.cross_encoder import CrossEncoder
from milvus_coop.training.coop_small.layout import EMBEDDING
from milvus_coop.training.coop_small.scene_set import SceneSet
from milvus_coop.training.metrics import KS, Recalls, recalls
from milvus_coop.types import Array

KINDS = ("all", "relation", "size", "count", "objects")
_CHUNK = 2048


@dataclass(frozen=True)
class SceneVerdict:
    """Hits of every query in a pool of all scenes; `text` is text -> image, `image` is image -> text; `base` is the bi-encoder."""

    scenes: SceneSet
    be_text: Recalls
    be_image: Recalls
    coop_text: Recalls
    coop_image: Recalls

    def figures(self) -> dict[str, Any]:
        """Per `<kind> seen` and `<kind> unseen`: queries, R@1 and R@10 of each system and direction, and Coop's gain in R@1.

        The gain's standard error treats a group as one observation.
        """
        kinds = np.array([scene.kind.partition("/")[0] for scene in self.scenes.scenes])
        unseen = np.array([scene.kind.endswith("/unseen") for scene in self.scenes.scenes])
        groups = np.array([scene.group for scene in self.scenes.scenes])
        found = {}
        for new in (False, True):
            for kind in KINDS:
                chosen = np.flatnonzero((unseen == new) & ((kinds == kind) | (kind == "all")))
                if len(chosen):
                    found[f"{kind} {'unseen' if new else 'seen'}"] = self._row(chosen, groups[chosen])
        return found

    def _row(self, chosen: Array, groups: Array) -> dict[str, Any]:
        row: dict[str, Any] = {"queries": len(chosen)}
        for direction in ("text", "image"):
            be, coop = (getattr(self, f"{system}_{direction}").hits[chosen] for system in ("be", "coop"))
            row[f"be_{direction}"], row[f"coop_{direction}"] = _percent(be), _percent(coop)
            change = 100.0 * (coop[:, 0].astype(float) - be[:, 0])
            means = np.array([change[groups == group].mean() for group in np.unique(groups)])
            row[f"gain_{direction}"] = [round(float(change.mean()), 1), round(float(means.std(ddof=1) / len(means) ** 0.5), 1)]
        return row


def judge_scenes(scenes: SceneSet, tokens: Array, cross_encoder: CrossEncoder, k: int = 20) -> SceneVerdict:
    """Search within `scenes`, every caption against all pictures and back; `tokens` (n, 38, 64) as stored and restored."""
    cosines = scenes.sentences @ tokens[:, EMBEDDING].reshape(len(scenes), -1).T
    names = np.array(scenes.captions)
    relevant = names[:, None] == names[None, :]

    def score(pictures: Array, captions: Array) -> Array:
        return _scores(scenes, tokens, cross_encoder, pictures, captions)

    text = _rescored(cosines, lambda row, column: score(column, row), k)
    image = _rescored(cosines.T, score, k)
    return SceneVerdict(
        scenes,
        recalls(cosines, relevant),
        recalls(cosines.T, relevant.T),
        recalls(text, relevant),
        recalls(image, relevant.T),
    )


def _rescored(scores: Array, of_pair: Callable[[Array, Array], Array], k: int) -> Array:
    """Replace each row's first k scores by the cross-encoder's, above all others."""
    k = min(k, scores.shape[1] - 1)
    best = np.argpartition(-scores, k, axis=1)[:, :k]
    second = of_pair(np.repeat(np.arange(len(scores)), k), best.ravel()).reshape(best.shape)
    result: Array = scores - scores.max() + second.min() - 1.0
    np.put_along_axis(result, best, second, 1)
    return result


def _scores(scenes: SceneSet, tokens: Array, model: CrossEncoder, pictures: Array, captions: Array) -> Array:
    parts = []
    with torch.no_grad():
        for start in range(0, len(pictures), _CHUNK):
            rows, texts = pictures[start : start + _CHUNK], captions[start : start + _CHUNK]
            length = int(scenes.mask[texts].sum(1).max())
            sentence = torch.from_numpy(scenes.sentences[texts])
            words, mask = (
                torch.from_numpy(scenes.words[texts, :length]).float(),
                torch.from_numpy(scenes.mask[texts, :length]).long(),
            )
            parts.append(model.pair_score(sentence, words, mask, torch.from_numpy(tokens[rows])).numpy())
    return np.concatenate(parts)


def _percent(hits: Array) -> list[float]:
    """R@1 and R@10."""
    return [round(float(100 * hits[:, KS.index(k)].mean()), 1) for k in (1, 10)]
