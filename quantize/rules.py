"""One operation of a folded graph in, its quantized module out, and how that is run.

| operation | module | value |
|---|---|---|
| Features | `QuantFeatures` | codes of the input |
| Embedding | `Embedded` | numbers, known for each token |
| Affine | `nn.Linear` of what is known, else `RoundedLinear` | numbers, a sum that no table has read |
| Head | `QuantHead`, of the next token `TokenHead` | logits |
| Code | `ActQuant` on the grid of its role | codes |
| Normalize | a norm of `quantize.norms`, of what is known the float norm | codes, or numbers |
| Attend | an attention of `quantize.attention` | codes |
| Activate | `Activation` | numbers |
| Pool | `Pooling` | codes |
| Residual, InARow | none | codes |

Codes are a `Grid`, numbers a tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torusformer.models.activations import ACTIVATIONS
from torusformer.models.config import ModelConfig
from torusformer.models.norms import NORMS
from torusformer.quantize.attention import ATTENTION, AskedAttention
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.graph import (
    Activate,
    Affine,
    Attend,
    Code,
    Embedding,
    Features,
    Graph,
    Head,
    InARow,
    Normalize,
    Op,
    Pool,
    Residual,
)
from torusformer.quantize.layers import (
    AccumulatorRounding,
    GroupedSum,
    QuantHead,
    RoundedLinear,
    TokenHead,
    add,
    in_a_row,
    linear_of,
    matmul,
    side_by_side,
)
from torusformer.quantize.norms import QUANT_NORMS
from torusformer.quantize.quantizers import (
    ActQuant,
    Grid,
    build_activation,
    build_branch,
    constant,
    unary,
)
from torusformer.quantize.walk import Rows

Value = Any  # Grid | Tensor: what a rule gives, by the table above


@dataclass(frozen=True, eq=False)
class Site:
    """What the module of an operation needs to know of those around it."""

    graph: Graph
    config: QuantConfig
    made: Mapping[str, nn.Module]

    @property
    def model(self) -> ModelConfig:
        """The shape of the float model."""
        return self.graph.model

    def known(self, name: str) -> bool:
        """Whether a value depends on a token and its position alone."""
        return name in self.graph.of_tokens()

    def grid_of(self, name: str) -> ActQuant | None:
        """The quantizer on whose grid a value lies; None of the input."""
        op, module = self.graph[name], self.made.get(name)
        match op:
            case Code():
                assert isinstance(module, ActQuant)
                return module
            case Normalize() | Attend():
                quant = module.out_quant if isinstance(op, Normalize) else module.context_quant
                assert isinstance(quant, ActQuant)
                return quant
            case Features() | InARow():
                return None
        return self.grid_of(op.sources[0])  # residual sums and pools

    def span(self, name: str) -> int:
        """Highest less lowest integer of a value; of a mean over tokens, that of their sum."""
        op = self.graph[name]
        if isinstance(op, Pool) and (self.model.pooling or "mean") == "mean":
            return self.model.tokens * self.span(op.sources[0])
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
        if isinstance(op, Pool):
            return self._origin(op.sources[0])
        return name if isinstance(op, Code | Attend | Normalize) and not self.known(name) else ""


class Rule(ABC):
    """How one kind of operation is quantized."""

    op: ClassVar[type[Op]]

    @staticmethod
    @abstractmethod
    def build(op: Any, site: Site) -> nn.Module | None:
        """The module, from the operation's float weights."""

    @staticmethod
    @abstractmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        """The value; `x` is the model's input."""


class QuantFeatures(nn.Module):
    """The client's grid: set once, free of ties; numbers as one code or a row of bits each."""

    def __init__(self, config: QuantConfig, unit: float) -> None:
        """Codes count in `unit` of the model's own numbers."""
        super().__init__()
        self.unary, self.unit = config.input_unary, unit
        self.quant = ActQuant(config.input_bit_width, signed=False)
        self.quant.requires_grad_(False)

    def forward(self, x: Tensor) -> Grid:
        """(B, T, features) to (B, T, features * codes)."""
        n: Grid = self.quant(x)
        if self.unary:
            n = unary(n, x)
        return n._replace(value=n.value * self.unit, scale=n.scale * self.unit)


class FeaturesRule(Rule):
    op = Features

    @staticmethod
    def build(op: Features, site: Site) -> nn.Module:
        return QuantFeatures(site.config, op.unit)

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        return module(x)


class Embedded(nn.Module):
    """Rows of a matrix, and a vector for each position, in floating point."""

    def __init__(self, op: Embedding) -> None:
        """Learned on from the float model's."""
        super().__init__()
        self.weight = nn.Parameter(op.weight.clone())
        self.positions = None if op.positions is None else nn.Parameter(op.positions.clone())

    def forward(self, tokens: Tensor, first: int) -> Tensor:
        """(B, T) ids, the first at position `first`, to (B, T, dim)."""
        x = nn.functional.embedding(tokens, self.weight)
        if self.positions is None:
            return x
        return x + constant(self.positions[first : first + tokens.shape[1]])


class EmbeddingRule(Rule):
    op = Embedding

    @staticmethod
    def build(op: Embedding, site: Site) -> nn.Module:
        return Embedded(op)

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        return module(x, rows.first)


class AffineRule(Rule):
    op = Affine

    @staticmethod
    def build(op: Affine, site: Site) -> nn.Module:
        weight, known = _weights(op, site)
        if weight is None:
            assert known is not None and op.positions is None
            return linear_of(known, op.bias)
        into_stream = any(
            isinstance(reader, Code) and reader.role in ("stream", "branch", "restart")
            for reader in site.graph.readers(op.name)
        )
        of_input = isinstance(site.graph[op.sources[0]], Features)
        return RoundedLinear(
            weight,
            op.bias,
            site.config,
            input_span=_span(op, site),
            positions=op.positions,
            known=known,
            sum_bit_width=site.config.embed_sum_bit_width if of_input else None,
            into_stream=into_stream,
        )

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        if isinstance(module, nn.Linear):
            return module(torch.cat(sources, dim=-1))
        return module(*_parts(sources), rows.first)


class HeadRule(Rule):
    op = Head

    @staticmethod
    def build(op: Head, site: Site) -> nn.Module:
        weight, known = _weights(op, site)
        assert weight is not None, "something was looked up"
        span = _span(op, site)
        if site.model.foretells:
            return TokenHead(weight, op.bias, site.config, input_span=span, known=known)
        assert known is None, "pools are of codes"
        return QuantHead(weight, op.bias, site.config, input_span=span)

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        return module(*_parts(sources))


def _weights(op: Affine, site: Site) -> tuple[Tensor | None, Tensor | None]:
    """Of codes side by side, each input's once for each of its bits; and of what is known."""
    coded, known = [], []
    for source, weight in zip(op.sources, op.weights, strict=True):
        if site.known(source):
            known.append(weight)
        elif isinstance(site.graph[source], Features | InARow):
            coded.append(weight.repeat_interleave(site.config.input_codes, dim=1))
        else:
            coded.append(weight)
    join = [torch.cat(parts, dim=1) if parts else None for parts in (coded, known)]
    return join[0], join[1]


def _span(op: Affine, site: Site) -> int:
    return max(site.span(source) for source in op.sources if not site.known(source))


def _parts(sources: list[Value]) -> tuple[Grid, Tensor | None]:
    """Codes side by side, and what is known."""
    codes = [s for s in sources if isinstance(s, Grid)]
    known = [s for s in sources if not isinstance(s, Grid)]
    grid = codes[0] if len(codes) == 1 else side_by_side(codes)
    return grid, torch.cat(known, dim=-1) if known else None


class CodeRule(Rule):
    op = Code

    @staticmethod
    def build(op: Code, site: Site) -> nn.Module:
        config = site.config
        match op.role:
            case "stream":
                return ActQuant(config.residual_bit_width, narrow=config.act_narrow)
            case "restart":
                return ActQuant(config.residual_bit_width)
            case "branch":
                (residual,) = site.graph.readers(op.name)
                stream = site.grid_of(residual.sources[0])
                assert stream is not None, "a stream is looked up where it begins"
                return build_branch(config, stream)
            case "activation":
                return build_activation(config, share_scale_of=site.shared_grid(op.name))
            case "hidden":
                # Unsigned without a gate: what GELU leaves below zero is less than one unit.
                shared = site.shared_grid(op.name)
                return build_activation(config, signed=site.model.gated, share_scale_of=shared)
            case "factor":
                return ActQuant(config.act_bit_width)

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        return module(sources[0])


class NormalizeRule(Rule):
    op = Normalize

    @staticmethod
    def build(op: Normalize, site: Site) -> nn.Module:
        dim = len(op.weight)
        known = site.known(op.name)
        norm = NORMS[op.kind](dim) if known else QUANT_NORMS[op.kind](dim, site.config)
        for name, value in norm.named_parameters(recurse=False):
            if name in ("weight", "bias"):
                value.data.copy_(getattr(op, name))
        return norm

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        return module(sources[0])


class ResidualRule(Rule):
    op = Residual

    @staticmethod
    def build(op: Residual, site: Site) -> None:
        return None

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        return add(*sources)


class AttendRule(Rule):
    op = Attend

    @staticmethod
    def build(op: Attend, site: Site) -> nn.Module:
        kind = AskedAttention if op.asks else ATTENTION[site.model.attention]
        return kind(
            site.model,
            site.config,
            op,
            known=site.known(op.sources[0]),
            share_scale_of=site.shared_grid(op.name),
        )

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        q, *k, v = sources
        return module(q, k[0] if k else None, v, rows)


class Activation(nn.Module):
    """The MLP's activation; what a gate lets through is a function of two codes, one table."""

    def __init__(self, site: Site) -> None:
        """With a learned gain a channel where the configuration says so."""
        super().__init__()
        self.act = ACTIVATIONS[site.model.activation]
        gains = site.config.gains and not site.model.gated
        self.gain = nn.Parameter(torch.ones(site.model.mlp_dim)) if gains else None

    def forward(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        """(..., n) to (..., n)."""
        if up is not None:
            return self.act(gate) * up
        return self.act(gate if self.gain is None else gate * self.gain)


class ActivateRule(Rule):
    op = Activate

    @staticmethod
    def build(op: Activate, site: Site) -> nn.Module:
        return Activation(site)

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        return module(*(s.value if isinstance(s, Grid) else s for s in sources))


class Pooling(nn.Module):
    """What the head reads of all tokens; a mean over kept ones is a table of sum and count."""

    def __init__(self, site: Site, *, rounded: bool) -> None:
        """`rounded` says that a norm reads it, in tables; a head takes sums as they are."""
        super().__init__()
        model, config = site.model, site.config
        self.kind, self.tokens, self.rounded = model.pooling or "mean", model.tokens, rounded
        self.total = GroupedSum(config.raw_sum_bit_width, config.accumulator_bit_width)
        if self.kind == "mean" and model.padding is not None:
            self.rounding = AccumulatorRounding(config.accumulator_bit_width)
            self.inverse_quant = ActQuant(config.rsqrt_bit_width, signed=False)
            self.mean_quant = ActQuant(config.residual_bit_width, narrow=config.act_narrow)

    def forward(self, x: Grid, rows: Rows) -> Grid:
        """(B, T, n) to (B, n)."""
        width = x.value.shape[-1]
        if self.kind != "mean":
            row = x.value[:, -1:] if self.kind == "last" else x.value[:, :1]
            return x._replace(value=row.reshape(-1, width))
        if rows.keep is not None:
            return self._mean_of_kept(x, rows.keep)
        n = self.tokens
        if self.rounded:
            total = self.total(x._replace(value=x.value.transpose(1, 2)))  # (B, n, 1)
        else:
            total = Grid(x.value.sum(1), x.scale, n * x.lo, n * x.hi)
        mean = total.value.reshape(-1, width) * (1 / n)
        return total._replace(value=mean, scale=total.scale * (1 / n))

    def _mean_of_kept(self, x: Grid, keep: Grid) -> Grid:
        row = keep._replace(value=keep.value.unsqueeze(1))
        total = self.rounding(matmul(row, x)).value.reshape(-1, x.value.shape[-1])
        count = keep.value.sum(-1, keepdim=True)
        # Half a token more where there is none.
        inverse = self.inverse_quant(1 / torch.clamp(count, min=0.5))
        return self.mean_quant(total * inverse.value)


class PoolRule(Rule):
    op = Pool

    @staticmethod
    def build(op: Pool, site: Site) -> nn.Module:
        readers = site.graph.readers(op.name)
        return Pooling(site, rounded=any(isinstance(r, Normalize) for r in readers))

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        return module(sources[0], rows)


class InARowRule(Rule):
    op = InARow

    @staticmethod
    def build(op: InARow, site: Site) -> None:
        return None

    @staticmethod
    def run(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
        return in_a_row(sources[0])


RULES: Mapping[type[Op], type[Rule]] = {rule.op: rule for rule in Rule.__subclasses__()}
