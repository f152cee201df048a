"""One step of a model that writes, as it is exported: a token and what is cached in, logits out.

The position is known when the step is exported, so that everything about it is a constant. What is
cached are the codes of keys and values of earlier tokens, each token's by itself, and the tokens
that a window of neighbours still reaches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torusformer.quantize.attention import QuantAttention
from torusformer.quantize.quantizers import ActQuant, Grid
from torusformer.quantize.transformer import QuantTransformer
from torusformer.quantize.walk import Entry

TOKEN, LOGITS = "token", "logits"


def entry_names(block: int, position: int) -> tuple[str, str]:
    """What the key and the value of one token in one block are called."""
    return f"key.{block}.{position}", f"value.{block}.{position}"


def token_name(position: int) -> str:
    """What an earlier token is called."""
    return f"{TOKEN}.{position}"


class DecoderStep(nn.Module):
    """What a model that writes does with the token at `position`.

    Inputs are the token, its neighbours, and then, for every block, the keys of all earlier tokens
    and their values, each (1, groups * d). Outputs are the logits, and the token's key and value.
    """

    def __init__(self, model: QuantTransformer, position: int) -> None:
        """Shares the model's weights."""
        super().__init__()
        self.model, self.position = model, position
        window = model.model_config.window or 1
        self.neighbours = range(max(0, position - window + 1), position)

    @property
    def input_names(self) -> list[str]:
        """Of `forward`'s arguments."""
        blocks = range(len(self.model.attentions))
        names = ([entry_names(b, p) for p in range(self.position)] for b in blocks)
        near = map(token_name, self.neighbours)
        return [
            TOKEN,
            *near,
            *(n for block in names for part in zip(*block, strict=True) for n in part),
        ]

    @property
    def output_names(self) -> list[str]:
        """Of `forward`'s results."""
        blocks = range(len(self.model.attentions))
        return [LOGITS, *(name for b in blocks for name in entry_names(b, self.position))]

    def example(self) -> tuple[Tensor, ...]:
        """Arguments of the right shapes."""
        shape, count = self.model.model_config, self.position
        key = torch.zeros(1, shape.key_heads * shape.key_dim)
        value = torch.zeros(1, shape.key_heads * shape.head_value_dim)
        cached = [part for _ in self.model.attentions for part in [key] * count + [value] * count]
        tokens = [torch.zeros(1, 1, dtype=torch.int64)] * (1 + len(self.neighbours))
        return (*tokens, *cached)

    def forward(self, token: Tensor, *cached: Tensor) -> tuple[Tensor, ...]:
        """`token` (1, 1) and its neighbours as well."""
        near, cached = cached[: len(self.neighbours)], cached[len(self.neighbours) :]
        parts, groups = iter(cached), self.model.model_config.key_heads
        cache: dict[str, Entry] = {}
        for name in self.model.attentions if self.position else ():
            attention = self.model.get_submodule(name)
            assert isinstance(attention, QuantAttention)
            quants = attention.key_quant, attention.value_quant
            cache[name] = Entry(
                *(_stacked([next(parts) for _ in range(self.position)], quant, groups)
                  for quant in quants)
            )  # fmt: skip
        logits, new = self.model.run(token, cache, near)
        entries = (
            part.value.reshape(1, -1) for name in self.model.attentions for part in new[name]
        )
        return (logits.reshape(1, -1), *entries)


def _stacked(parts: Sequence[Tensor], quant: ActQuant, groups: int) -> Grid:
    """Tokens (1, groups * d) as codes (1, groups, tokens, d)."""
    grids = [quant.again(part) for part in parts]
    values = [grid.value.reshape(1, groups, 1, -1) for grid in grids]
    return grids[0]._replace(value=torch.cat(values, dim=2))
