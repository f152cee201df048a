"""One step of a decoder at one position, as it is exported: a token and what is cached in, out.

The position is known when the step is exported, so that everything about it is a constant. What is
cached are the codes of keys and values of earlier tokens, each token's by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from torusformer.quantize.causal import CausalDecoder, Entry
from torusformer.quantize.quantizers import ActQuant, Grid

TOKEN, LOGITS = "token", "logits"


def entry_names(block: int, position: int) -> tuple[str, str]:
    """What the key and the value of one token in one block are called."""
    return f"key.{block}.{position}", f"value.{block}.{position}"


class DecoderStep(nn.Module):
    """What a decoder does with the token at `position`; `answer` says whether logits are wanted.

    Inputs are the token and then, for every block, the keys of all earlier tokens and their values,
    each (1, groups * d). Outputs are the logits, if wanted, and this token's keys and values.
    """

    def __init__(self, decoder: CausalDecoder, position: int, *, answer: bool = True) -> None:
        """Shares the decoder's weights."""
        super().__init__()
        self.decoder, self.position, self.answer = decoder, position, answer

    @property
    def input_names(self) -> list[str]:
        """Of `forward`'s arguments."""
        blocks = range(len(self.decoder.cores))
        names = ([entry_names(b, p) for p in range(self.position)] for b in blocks)
        return [TOKEN, *(n for block in names for part in zip(*block, strict=True) for n in part)]

    @property
    def output_names(self) -> list[str]:
        """Of `forward`'s results."""
        blocks = range(len(self.decoder.cores))
        names = [name for b in blocks for name in entry_names(b, self.position)]
        return [LOGITS, *names] if self.answer else names

    def example(self) -> tuple[Tensor, ...]:
        """Arguments of the right shapes."""
        model, count = self.decoder.model, self.position
        key = torch.zeros(1, model.groups * model.score_dim)
        value = torch.zeros(1, model.groups * model.head_value_dim)
        cached = [part for _ in self.decoder.cores for part in [key] * count + [value] * count]
        return (torch.zeros(1, 1, dtype=torch.int64), *cached)

    def forward(self, token: Tensor, *cached: Tensor) -> tuple[Tensor, ...]:
        """`token` (1, 1)."""
        parts, groups = iter(cached), self.decoder.model.groups
        cache = [
            Entry(
                _stacked(self._next(parts), core.key_quant, groups),
                _stacked(self._next(parts), core.value_quant, groups),
            )
            for core in self.decoder.cores
            if self.position
        ]
        logits, new = self.decoder.run(token, cache, answer=self.answer)
        entries = tuple(part.value.reshape(1, -1) for entry in new for part in entry)
        return entries if logits is None else (logits.reshape(1, -1), *entries)

    def _next(self, parts: Iterator[Tensor]) -> list[Tensor]:
        return [next(parts) for _ in range(self.position)]


def _stacked(parts: Sequence[Tensor], quant: ActQuant, groups: int) -> Grid:
    """Tokens (1, groups * d) as codes (1, groups, tokens, d)."""
    grids = [quant(part) for part in parts]
    values = [grid.value.reshape(1, groups, 1, -1) for grid in grids]
    return grids[0]._replace(value=torch.cat(values, dim=2))
