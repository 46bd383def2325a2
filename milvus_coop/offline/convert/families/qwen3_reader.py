"""The language model of Qwen3-VL as a reader: prompt, text and image tokens in one pass, up to the state of the last position.

A prompt has five parts: a fixed beginning, the text, a fixed middle, the image, a fixed end. Attention is causal, so the keys and
values of the beginning do not depend on what follows. They are constants of the graph. The text is padded on its right; middle,
image and end follow the padding. Attention sees positions, not places, so the padding is masked and takes no position. The last
place is the last position of every row, whatever the padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.errors import ConvertError
from milvus_coop.offline.convert.families.qwen3_vision import turned
from milvus_coop.offline.convert.streaming import rows_of

_MASKED = -3e4  # within float16, in which a bundle may store the mask


class Reader(nn.Module):
    """A text, and image tokens if there are any, to the normalised last state of the language model."""

    def __init__(self, decoder: Decoder, middle: tuple[int, ...], end: tuple[int, ...], sets: int) -> None:
        super().__init__()
        self.decoder, self.embed, self.sets = decoder, decoder.embed, sets
        self.middle, self.end = (nn.Buffer(rows_of(self.embed.weight, ids)[None], persistent=False) for ids in (middle, end))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor | None = None) -> Tensor:
        """int64 (B, T) twice, image tokens (B, sets * N, W) -> (B, W)."""
        sights = () if tokens is None else tokens.chunk(self.sets, dim=1)
        side = 0 if tokens is None else round((tokens.shape[1] // self.sets) ** 0.5)
        steps = self.decoder.steps(self.middle.shape[1], side, self.end.shape[1])
        batch = input_ids.shape[0]
        states = torch.cat(
            [self.embed(input_ids), self.middle.expand(batch, -1, -1), *sights[:1], self.end.expand(batch, -1, -1)], dim=1
        )
        present = attention_mask.float()
        words = torch.arange(input_ids.shape[1], dtype=torch.float32)[None, :, None] + self.decoder.start
        length = present.sum(1)[:, None, None] + self.decoder.start
        turns = self.decoder.turns(torch.cat([words.expand(batch, -1, steps.shape[1]), length + steps], dim=1))
        mask = self.decoder.mask(states.shape[1], functional.pad(present, (0, steps.shape[0]), value=1.0))
        state: Tensor = self.decoder(states, turns, mask, sights[1:], self.end.shape[1])
        return state


class ImageReader(nn.Module):
    """Image tokens to the normalised last state of the language model. All positions are constants."""

    def __init__(self, decoder: Decoder, middle: tuple[int, ...], end: tuple[int, ...], sets: int, side: int) -> None:
        super().__init__()
        self.decoder, self.sets = decoder, sets
        weight = decoder.embed.weight
        self.middle, self.end = (nn.Buffer(rows_of(weight, ids)[None], persistent=False) for ids in (middle, end))
        steps = decoder.steps(len(middle), side, len(end))
        self.cos, self.sin = (nn.Buffer(part, persistent=False) for part in decoder.turns(decoder.start + steps[None]))
        self.mask = nn.Buffer(decoder.mask(len(steps)), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, sets * N, W) -> (B, W)."""
        sights = tokens.chunk(self.sets, dim=1)
        middle, end = (part.expand(tokens.shape[0], -1, -1) for part in (self.middle, self.end))
        states = torch.cat([middle, sights[0], end], dim=1)
        state: Tensor = self.decoder(states, (self.cos, self.sin), self.mask, sights[1:], self.end.shape[1])
        return state


class Decoder(nn.Module):
    """The layers of the language model after a fixed beginning."""

    def __init__(self, language: Any, beginning: tuple[int, ...]) -> None:
        super().__init__()
        config = language.config
        self.embed: nn.Embedding = language.embed_tokens
        self.layers, self.norm = language.layers, language.norm
        self.head, self.groups = config.head_dim, config.num_key_value_heads
        self.scale = config.head_dim**-0.5
        self.start = len(beginning)
        older = {**(getattr(config, "rope_scaling", None) or {}), "rope_theta": getattr(config, "rope_theta", None)}
        rope = getattr(config, "rope_parameters", None) or older  # transformers 5, or 4
        if rope.get("rope_type", "default") != "default":
            raise ConvertError(f"the positions of the language model are of the type '{rope['rope_type']}'", expected="default")
        half = config.head_dim // 2
        self.speed = nn.Buffer(1.0 / rope["rope_theta"] ** (torch.arange(half, dtype=torch.float32) / half), persistent=False)
        self.axes = _axes(half, rope.get("mrope_section", (24, 20, 20)))
        keys, values = _remembered(language, beginning)
        self.remembered = nn.ModuleList(_Remembered(*pair) for pair in zip(keys, values, strict=True))

    def steps(self, before: int, side: int, after: int) -> Tensor:
        """Positions of middle, image and end, counted from the end of the text, float32 of shape (places, head / 2).

        Every frequency reads one of three positions: time, row and column. The three are equal for text. All tokens of an image
        have the same time, and the text after it goes on from its largest row or column (Qwen2-VL, Wang et al. 2024, section 2.1).
        """
        image = [[before + (0, row, column)[axis] for axis in self.axes] for row in range(side) for column in range(side)]
        start, end = ([[place] * len(self.axes) for place in places] for places in (range(before), range(after)))
        # As lists, because an exporter would put the operations on tensors into the graph.
        return torch.tensor([*start, *image, *([before + side + n for n in row] for row in end)], dtype=torch.float32)

    def turns(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (B, 1, S, head), for the position of each place and frequency, (B, S, head / 2)."""
        angles = (places * self.speed).repeat(1, 1, 2)[:, None]
        return angles.cos(), angles.sin()

    def mask(self, length: int, present: Tensor | None = None) -> Tensor:
        """Large negative numbers where a place must not read another one, and 0 elsewhere, (B or 1, 1, S, start + S).

        Args:
            length: number of places.
            present: 1 for a token, 0 for padding, (B, S).
        """
        order = torch.arange(length)
        hidden = (order[None, :] > order[:, None]).float()[None]  # (1, S, S)
        if present is not None:
            hidden = torch.maximum(hidden, 1.0 - present[:, None])
        return functional.pad(hidden * _MASKED, (self.start, 0))[:, None]

    def forward(self, states: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor, deeper: tuple[Tensor, ...], after: int) -> Tensor:
        """The state of the last place, normalised.

        Args:
            states: (B, S, W).
            turns: see `turns`.
            mask: see `mask`.
            deeper: features that are added to the image's states after the first layers, each (B, N, W).
            after: number of places after the image.
        """
        final = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            normal = layer.input_layernorm(states)
            rest = states if number < final else states[:, -1:]
            states = rest + self._attended(number, layer.self_attn, normal, turns, mask)
            states = states + layer.mlp(layer.post_attention_layernorm(states))
            if number < min(len(deeper), final):
                states = _added(states, deeper[number], after)
        result: Tensor = self.norm(states[:, -1])
        return result

    def _attended(self, number: int, attention: Any, states: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """One layer's attention. The last layer is asked for the last place only."""
        asking, asking_turns, asking_mask = states, turns, mask
        if number == len(self.layers) - 1:
            asking, asking_mask = states[:, -1:], mask[:, :, -1:]
            asking_turns = turns[0][:, :, -1:], turns[1][:, :, -1:]
        query = attention.q_norm(torch.unflatten(attention.q_proj(asking), 2, (-1, self.head))).transpose(1, 2)
        key = attention.k_norm(torch.unflatten(attention.k_proj(states), 2, (-1, self.head))).transpose(1, 2)
        value = torch.unflatten(attention.v_proj(states), 2, (-1, self.head)).transpose(1, 2)
        query, key = turned(query, *asking_turns), turned(key, *turns)  # (B, heads, S, head)
        key, value = self.remembered[number](key, value)
        shared = torch.unflatten(query, 1, (self.groups, -1))  # (B, groups, heads / groups, S, head)
        scores = shared @ key[:, :, None].transpose(3, 4) * self.scale + asking_mask[:, :, None]
        seen = (scores.softmax(-1) @ value[:, :, None]).flatten(1, 2)  # (B, heads, S, head)
        result: Tensor = attention.o_proj(seen.transpose(1, 2).flatten(2))
        return result


class _Remembered(nn.Module):
    """Keys and values of the beginning in one layer, each (1, groups, start, head)."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.key, self.value = (nn.Buffer(part, persistent=False) for part in (key, value))

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put them before those of what follows, (B, groups, S, head)."""
        pairs = ((self.key, key), (self.value, value))
        first, second = (torch.cat([kept.expand(key.shape[0], -1, -1, -1), part], dim=2) for kept, part in pairs)
        return first, second


def _added(states: Tensor, features: Tensor, after: int) -> Tensor:
    """Add features to the places of the image, which are followed by `after` others."""
    count = features.shape[1] + after
    return torch.cat([states[:, :-count], states[:, -count:-after] + features, states[:, -after:]], dim=1)


def _axes(half: int, sections: tuple[int, int, int]) -> list[int]:
    """The axis that each frequency reads: 0 for time, 1 for rows, 2 for columns. They take turns, as Qwen3-VL interleaves them."""
    axes = [0] * half
    for axis in (1, 2):
        for place in range(axis, 3 * sections[axis], 3):
            axes[place] = axis
    return axes


@torch.no_grad()
def _remembered(language: Any, beginning: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of the beginning in each layer, each (1, groups, length, head)."""
    cache = language(input_ids=torch.tensor([beginning]), use_cache=True).past_key_values
    layers = [cache.layers[number] for number in range(len(language.layers))]
    return [layer.keys.clone() for layer in layers], [layer.values.clone() for layer in layers]
