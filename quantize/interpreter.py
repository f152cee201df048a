"""A graph and samples in, what it computes in floating point out: the oracle of every rewrite."""

from __future__ import annotations

import torch
from torch import Tensor

from torusformer.models.activations import ACTIVATIONS
from torusformer.models.attention import Heads
from torusformer.models.config import ModelConfig
from torusformer.models.neighbours import rows_before, rows_from, summed
from torusformer.models.norms import build_norm
from torusformer.models.transformer import pooled
from torusformer.quantize.graph import (
    Activate,
    Affine,
    Attend,
    Code,
    Embedding,
    Features,
    Graph,
    InARow,
    Neighbours,
    Normalize,
    OneToken,
    Op,
    Pool,
    Residual,
    Total,
)


@torch.no_grad()
def interpret(graph: Graph, x: Tensor) -> Tensor:
    """Logits of x, (B, tokens, features) or ids (B, T), as `Transformer.forward` in eval mode."""
    values: dict[str, Tensor] = {}
    padding = graph.model.padding
    keep = None if padding is None else (x != padding).to(torch.float32)
    for op in graph.ops:
        values[op.name] = _value(graph.model, op, [values[s] for s in op.sources], x, keep)
    return values[graph.ops[-1].name]


def _value(
    model: ModelConfig, op: Op, sources: list[Tensor], x: Tensor, keep: Tensor | None
) -> Tensor:
    match op:
        case Features():
            return x * op.unit
        case Embedding():
            rows = op.weight[x]
            return rows if op.positions is None else rows + op.positions[: x.shape[1]]
        case Neighbours():
            return summed(rows_from(op.weight, x))
        case Affine():
            total = op.bias + sum(s @ w.T for s, w in zip(sources, op.weights, strict=True))
            if op.near is not None:
                total = total + sum(rows_before(op.near, x))
            return total if op.positions is None else total + op.positions[: total.shape[1]]
        case Code():
            return sources[0]
        case Normalize() if op.is_affine:
            return sources[0] * op.weight + op.bias
        case Normalize():
            norm = build_norm(op.kind, len(op.weight), op.epsilon)
            norm.load_state_dict({"weight": op.weight, "bias": op.bias})
            result: Tensor = norm(sources[0])
            return result
        case Residual():
            return sources[0] + sources[1]
        case Attend():
            heads = Heads(model, op.tables, op.distance_bias)
            q, *k, v = sources
            return heads.attend(q, k[0] if k else None, v, keep)
        case Activate():
            act = ACTIVATIONS[op.kind]
            return act(sources[0]) if len(sources) == 1 else act(sources[0]) * sources[1]
        case Pool():
            return pooled(model, sources[0], keep)
        case Total():
            return sources[0].sum(1, keepdim=True)
        case OneToken():
            return sources[0].flatten(1).unsqueeze(1)
        case InARow():
            return sources[0].flatten(1)
    raise TypeError(f"no rule for {type(op).__name__}")
