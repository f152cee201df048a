"""Sums that nothing bounds: a table of p bits reads them modulo 2^(p + 1), folded.

A bootstrap of p bits reads any table with f(v + 2^p) = -f(v) of a sum modulo 2^(p + 1); see
`fhe_compile.program.antiperiod`. Every odd function of the triangle wave

    t(v) = v                for |v| <= 2^(p - 1), a quarter of the ring
    t(v) = ±2^p - v         beyond, to the half

is such a table, with the wave's period 2^(p + 1). A code that saturates (-1, 0, 1) is right on all
of the ring but the part near its half, where t is on its way back: the *fold*.

Worked example, p = 3: 0, 3, 4, 5, 8, 11 are seen as 0, 3, 4, 3, 0, -3; a code with steps of 2 units
gives 0, 1, 1, 1, 0, -1, and is wrong from 8 on.

Source: WrapNet, arXiv 2007.13242, trains sums that wrap on ordinary hardware, with a penalty on
those that do; the wave of period 2^(p + 1) is what a negacyclic table asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from brevitas.function.ops_ste import floor_ste, round_ste
from torch import Tensor, nn

from torusformer import InputError
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.graph import Affine, Attend, Graph, Neighbours
from torusformer.quantize.quantizers import Grid, constant

ODD_ACTIVATIONS = ("hardtanh",)
ODD_ATTENTION = ("tanh",)
EIGHTHS = 8  # of a unit: how finely a bias is placed
NEAR = 0.75  # of half the ring: sums beyond are penalized


class Folding(nn.Module):
    """The triangle wave of a sum: what a table of `bit_width` bits sees of it."""

    def __init__(self, bit_width: int) -> None:
        """The ring has 2**(bit_width + 1) residues."""
        super().__init__()
        self.bit_width = bit_width

    def units(self, x: Grid, offset: Tensor | None = None) -> Tensor:
        """The sum in whole units, plus its offset in odd sixteenths of one: never zero."""
        rounded, floored = (round_ste, floor_ste) if self.training else (torch.round, torch.floor)
        place = torch.zeros(()) if offset is None else offset / x.scale
        eighth = (floored(place * EIGHTHS) + 0.5) / EIGHTHS
        return rounded(x.value / constant(x.scale)) + constant(eighth)

    def forward(self, x: Grid, offset: Tensor | None = None) -> Grid:
        """`x + offset`, folded, in the same unit; no bound of x matters."""
        half = 2.0**self.bit_width
        v = self.units(x, offset) + half / 2
        # floor has no gradient here: the wave's is 1 going up, -1 going down.
        around = v - torch.floor(v / (2 * half)) * (2 * half)
        wave = half / 2 - torch.abs(around - half)
        top = torch.tensor(half / 2)
        return Grid(wave * constant(x.scale), x.scale, -top, top)

    def rows(self, x: Grid, counts: Sequence[int]) -> Grid:
        """As `forward`: how many terms a row sums up bounds nothing here."""
        return self(x)


def check_rings(graph: Graph, config: QuantConfig) -> None:
    """Refuse rings of layers that this graph has not, or that no odd function reads.

    Raises:
        InputError: names the ring, and what to do.
    """
    model = graph.model
    attends = [op for op in graph.ops if isinstance(op, Attend)]
    layers = {op.name.rpartition(".")[2] for op in graph.ops if type(op) is Affine}
    layers |= {"context", "score"} if attends else set()
    layers |= {"window"} if any(isinstance(op, Neighbours) for op in graph.ops) else set()
    if unknown := sorted(set(config.rings) - layers):
        raise InputError(
            f"rings name {unknown[0]!r}, which is no layer of this model once it is folded; known:"
            f" {', '.join(sorted(layers - {'head'}))}"
        )
    for reader in ("gate" if model.gated else "up", "window"):
        if reader in config.rings and model.activation not in ODD_ACTIVATIONS:
            raise InputError(
                f"rings name {reader!r}, and activation {model.activation} is no odd function: its"
                f" sum cannot wrap; choose activation {', '.join(ODD_ACTIVATIONS)}, or leave"
                f" {reader!r} out"
            )
    if "score" in config.rings and model.attention not in ODD_ATTENTION:
        raise InputError(
            f"rings name 'score', and the weights of attention {model.attention} are no odd"
            f" function of it; choose attention {', '.join(ODD_ATTENTION)}, or leave 'score' out"
        )


@contextmanager
def watched(model: nn.Module) -> Iterator[list[tuple[Folding, Tensor]]]:
    """What every folding of a model reads while this is open: |sum| as a share of half a ring."""
    seen: list[tuple[Folding, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, Folding)
        seen.append((module, module.units(*inputs).abs() / 2.0**module.bit_width))

    handles = [
        m.register_forward_pre_hook(partial(note))
        for m in model.modules()
        if isinstance(m, Folding)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def penalty(seen: Sequence[tuple[Folding, Tensor]]) -> Tensor:
    """How far sums reach into the last quarter before their fold, on average, in units."""
    parts = [torch.relu(share - NEAR).mean() * 2.0**f.bit_width for f, share in seen]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def folded_shares(model: nn.Module, seen: Sequence[tuple[Folding, Tensor]]) -> dict[str, float]:
    """By layer, the share of sums beyond half the ring: read with the wrong sign."""
    names = {id(m): name for name, m in model.named_modules()}
    return {names[id(f)].rpartition(".")[0]: float((share > 1).float().mean()) for f, share in seen}
