"""One operation of a folded graph in, its quantized module out, and how that is run.

| operation | module | value |
|---|---|---|
| Features | `QuantFeatures` | codes of the input |
| Embedding | `Embedded` | numbers, known for each token |
| Neighbours | `NeighbourSum` | numbers: a sum no table has read |
| Affine | `KnownLinear` of what is known, else `RoundedLinear` | numbers: a sum as well |
| Head | `QuantHead`, of the next token `TokenHead` | logits |
| Code | `ActQuant` on the grid of its role | codes |
| Normalize | a norm of `quantize.norms`, of what is known the float norm | codes, or numbers |
| Attend | an attention of `quantize.attention` | codes |
| Activate | `Activation` | numbers |
| Pool | `Pooling` | codes |
| Residual, InARow, Total | none | codes |

Codes are a `Grid`, numbers a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torusformer.models.norms import NORMS
from torusformer.quantize.attention import ATTENTION, AskedAttention, Setting
from torusformer.quantize.graph import (
    WINDOW,
    Activate,
    Affine,
    Attend,
    Code,
    Embedding,
    Features,
    Head,
    InARow,
    Neighbours,
    Normalize,
    OneToken,
    Op,
    Pool,
    Residual,
    Total,
)
from torusformer.quantize.heads import QuantHead, TokenHead
from torusformer.quantize.known import KnownLinear, NeighbourSum
from torusformer.quantize.layers import (
    RoundedLinear,
    add,
    in_a_row,
    one_token,
    side_by_side,
    total_of,
)
from torusformer.quantize.norms import QUANT_NORMS
from torusformer.quantize.parts import Activation, Embedded, FloatGain, Pooling, QuantFeatures
from torusformer.quantize.quantizers import ActQuant, Grid, build_activation, build_branch
from torusformer.quantize.site import Site
from torusformer.quantize.walk import Rows

Value = Any  # Grid | Tensor, by the table above
INTO_STREAM = ("stream", "branch", "restart")


class Rule(NamedTuple):
    """How one kind of operation is quantized, and run: module, values read, rows, model input."""

    build: Callable[[Any, Site], nn.Module | None]
    run: Callable[[Any, list[Value], Rows, Tensor], Value]


def _no_module(op: Op, site: Site) -> None:
    return None


def _build_affine(op: Affine, site: Site) -> nn.Module:
    weight, known = _weights(op, site)
    if weight is None:
        assert known is not None and op.positions is None
        return KnownLinear(known, op.bias, zero_padding=site.model.zero_padding)
    readers = site.graph.readers(op.name)
    of_input = site.of_input(op.sources[0])
    ring = site.ring(op.name.rpartition(".")[2])
    return RoundedLinear(
        weight,
        op.bias,
        site.config,
        input_span=_span(op, site),
        positions=op.positions,
        known=known,
        near=op.near,
        sum_bit_width=site.config.embed_sum_bit_width if of_input else None,
        into_stream=any(isinstance(r, Code) and r.role in INTO_STREAM for r in readers),
        ring=ring,
        zero_padding=site.model.zero_padding and _of_tokens(op, site),
    )


def _of_tokens(op: Affine, site: Site) -> bool:
    """Whether a learned query reads it, so that it must say nothing of padding."""
    return any(isinstance(r, Attend) and r.asks for r in site.graph.readers(op.name))


def _run_affine(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
    keep = None if rows.keep is None else rows.keep.value
    if isinstance(module, KnownLinear):
        return module(torch.cat(sources, dim=-1), keep)
    return module(*_parts(sources), rows.first, (x, rows.before), keep)


def _build_head(op: Head, site: Site) -> nn.Module:
    weight, known = _weights(op, site)
    assert weight is not None, "something was looked up"
    span = _span(op, site)
    if site.model.foretells or known is not None:
        return TokenHead(weight, op.bias, site.config, input_span=span, known=known)
    return QuantHead(weight, op.bias, site.config, input_span=span)


def _weights(op: Affine, site: Site) -> tuple[Tensor | None, Tensor | None]:
    """Of codes side by side, each input's once for each of its bits; and of what is known."""
    coded, known = [], []
    for source, weight in zip(op.sources, op.weights, strict=True):
        if site.known(source):
            known.append(weight)
        elif site.of_input(source):
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


def _build_code(op: Code, site: Site) -> nn.Module:
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
            layer = "window" if op.name == WINDOW else "up"
            signed = site.model.gated or site.ring(layer) is not None
            return build_activation(config, signed=signed, share_scale_of=shared)
        case "factor":
            part = op.sources[0].rpartition(".")[2]
            narrow = config.act_narrow and site.ring(part) is not None
            return ActQuant(config.act_bit_width, narrow=narrow)


def _build_norm(op: Normalize, site: Site) -> nn.Module:
    dim = len(op.weight)
    if not site.known(op.name):
        norm = QUANT_NORMS[op.kind](dim, site.config)
    else:
        norm = FloatGain(dim) if op.is_affine else NORMS[op.kind](dim, op.epsilon)
    for name, value in norm.named_parameters(recurse=False):
        value.data.copy_(getattr(op, name))  # weight and bias
    return norm


def _build_attention(op: Attend, site: Site) -> nn.Module:
    kind = AskedAttention if op.asks else ATTENTION[site.model.attention]
    known, shared = site.known(op.sources[0]), site.shared_grid(op.name)
    return kind(Setting(site.model, site.config, op, known, shared))


def _run_attention(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
    q, *k, v = sources
    return module(q, k[0] if k else None, v, rows)


def _build_activation(op: Activate, site: Site) -> nn.Module:
    gains = site.config.gains and not site.model.gated and op.name != "pooler_activation"
    return Activation(op.kind, site.model.mlp_dim if gains else None)


def _run_activation(module: Any, sources: list[Value], rows: Rows, x: Tensor) -> Value:
    return module(*(s.value if isinstance(s, Grid) else s for s in sources))


def _build_pool(op: Pool, site: Site) -> nn.Module:
    rounded = any(isinstance(r, Normalize) for r in site.graph.readers(op.name))
    return Pooling(site.model, site.config, rounded=rounded)


RULES: Mapping[type[Op], Rule] = {
    Features: Rule(
        lambda op, site: QuantFeatures(site.config, op.unit),
        lambda module, sources, rows, x: module(x),
    ),
    Neighbours: Rule(
        lambda op, site: NeighbourSum(
            op.weight, site.config, ring=site.ring("window"), padding=site.model.padding
        ),
        lambda module, sources, rows, x: module(x),
    ),
    Embedding: Rule(
        lambda op, site: Embedded(op, site.model),
        lambda module, sources, rows, x: module(x, rows.first),
    ),
    Affine: Rule(_build_affine, _run_affine),
    Head: Rule(_build_head, lambda module, sources, rows, x: module(*_parts(sources))),
    Code: Rule(_build_code, lambda module, sources, rows, x: module(sources[0])),
    Normalize: Rule(_build_norm, lambda module, sources, rows, x: module(sources[0])),
    Residual: Rule(_no_module, lambda module, sources, rows, x: add(*sources)),
    Attend: Rule(_build_attention, _run_attention),
    Activate: Rule(_build_activation, _run_activation),
    Pool: Rule(_build_pool, lambda module, sources, rows, x: module(sources[0], rows)),
    InARow: Rule(_no_module, lambda module, sources, rows, x: in_a_row(sources[0])),
    Total: Rule(_no_module, lambda module, sources, rows, x: total_of(sources[0])),
    OneToken: Rule(_no_module, lambda module, sources, rows, x: one_token(sources[0])),
}
if forgotten := {*Op.__subclasses__(), Head, OneToken} - RULES.keys():
    raise TypeError(f"no rule to quantize {min(op.__name__ for op in forgotten)}")
