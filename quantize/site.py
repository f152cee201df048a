"""Where an operation stands in a folded graph: what its module needs to know of those around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from torusformer.models.config import ModelConfig
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.graph import (
    Affine,
    Attend,
    Code,
    Features,
    Graph,
    InARow,
    Normalize,
    Pool,
    Total,
)
from torusformer.quantize.quantizers import ActQuant


@dataclass(frozen=True, eq=False)
class Site:
    """A graph, bit widths, and the modules `made` of earlier operations by name.

    `longest` is the number of tokens that sums are bounded for.
    """

    graph: Graph
    config: QuantConfig
    made: Mapping[str, nn.Module]
    longest: int

    @property
    def model(self) -> ModelConfig:
        """The shape of the float model."""
        return self.graph.model

    def known(self, name: str) -> bool:
        """Whether a value depends on a token and its position alone."""
        return name in self.graph.of_tokens()

    def ring(self, layer: str) -> int | None:
        """The bits of the tables that read a layer's wrapping sums; None where they are proved."""
        return {str(name): bits for name, bits in self.config.rings.items()}.get(layer)

    def of_input(self, name: str) -> bool:
        """Whether a value is the input's codes, in whatever layout."""
        op = self.graph[name]
        if isinstance(op, Pool | InARow | Total):
            return self.of_input(op.sources[0])
        return isinstance(op, Features)

    def grid_of(self, name: str) -> ActQuant | None:
        """The quantizer on whose grid a value lies; None of the input."""
        op, module = self.graph[name], self.made.get(name)
        match op:
            case Code():
                quant = module
            case Normalize():
                quant = getattr(module, "out_quant", None)
            case Attend():
                quant = getattr(module, "context_quant", None)
                if quant is None and not self.config.context_table:
                    return None
            case Features() | InARow():
                return None
            case _:  # residual sums and pools
                return self.grid_of(op.sources[0])
        assert isinstance(quant, ActQuant), f"{name} is looked up"
        return quant

    def span(self, name: str) -> int:
        """Highest less lowest integer of a value; of a mean over tokens, that of their sum."""
        op = self.graph[name]
        if isinstance(op, Pool) and (self.model.pooling or "mean") in ("mean", "sum"):
            return self.longest * self.span(op.sources[0])
        if isinstance(op, Total):
            return self.longest * self.span(op.sources[0])
        while isinstance(op, Pool):
            op = self.graph[op.sources[0]]
        if isinstance(op, Attend) and not self.config.context_table:
            return self.longest * self.made[op.name].term_span
        quant = self.grid_of(name)
        return self.config.input_span if quant is None else int(quant.hi - quant.lo)

    def shared_grid(self, name: str) -> ActQuant | None:
        """The grid of an earlier code that is summed up with this one by the same weights."""
        together = {name}
        maps = [op for op in self.graph.ops if isinstance(op, Affine) and len(op.sources) > 1]
        while True:
            read = [{self._origin(s) for s in op.sources} - {""} for op in maps]
            met = together.union(*(codes for codes in read if codes & together))
            if met == together:
                break
            together = met
        earliest = next(op.name for op in self.graph.ops if op.name in together)
        return None if earliest == name else self.grid_of(earliest)

    def _origin(self, name: str) -> str:
        """The operation that made a code, whatever layout it is read in; "" for other values."""
        op = self.graph[name]
        if isinstance(op, Pool | Total):
            return self._origin(op.sources[0])
        return name if isinstance(op, Code | Attend | Normalize) and not self.known(name) else ""
