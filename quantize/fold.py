"""A graph in, the same function in fewer tables out: rewrites before anything is quantized.

| rewrite | pattern | becomes |
|---|---|---|
| tokens | what depends on a token and its position alone, behind a `Code` | read before the `Code`,
    and so computed in the clear for every token |
| mean | layer norms of a stream that only affine maps write into | the maps' outputs lose their
    mean over channels, the norms are RMS norms (arXiv 2401.15024) |
| affine | norms that are a gain and a shift, residual sums, projections in a row | one map for each
    reader, of the codes behind the last tables: no stream, no norm is left |

A learned query is folded into the keys where the graph is made: there it is what attention reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from torusformer import InputError
from torusformer.models.config import ModelConfig
from torusformer.models.transformer import Transformer, pooled
from torusformer.quantize.config import Rewrite
from torusformer.quantize.graph import (
    INPUT,
    POOLED,
    WINDOW,
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
    Total,
    graph_of,
)

EMBEDDED = "embed_quant"


def folded(graph: Graph, without: tuple[Rewrite, ...] = (), *, embed_table: bool = True) -> Graph:
    """The graph with every rewrite whose pattern stands in it, but those `without`.

    Without an `embed_table`, rewrite "affine" folds the embedding of features away as well.

    Raises:
        InputError: `without` names a rewrite that nothing in this model calls for.
    """
    graph = read_tokens_directly(graph)
    for name, rewrite in REWRITES.items():
        changed = rewrite(graph, embed_table)
        if name not in without:
            graph = changed or graph
        elif changed is None:
            raise InputError(
                f"unfolded names {name!r}, but this model has nothing of that kind to fold; "
                "leave it out"
            )
    return graph


def read_tokens_directly(graph: Graph) -> Graph:
    """Norms and projections of what a token alone gives read it before it is looked up."""
    for op in graph.ops:
        if isinstance(op, Affine | Normalize) and not isinstance(op, Head):
            known = graph.of_tokens()
            before = (graph[s] for s in op.sources)
            sources = [
                b.sources[0] if isinstance(b, Code) and b.sources[0] in known else b.name
                for b in before
            ]
            graph = graph.replace([op.reading(sources)])
    return graph


def fold_mean(graph: Graph, _: bool = True) -> Graph | None:
    """Layer norms to RMS norms of a stream without a mean; None where that is no pattern here."""
    norms = [op for op in graph.ops if isinstance(op, Normalize)]
    writers = {name for norm in norms for name in _writers(graph, norm.sources[0])}
    maps = [graph[name] for name in sorted(writers)]
    if not norms or any(norm.kind != "layer" for norm in norms):
        return None
    if not all(isinstance(op, Affine | Embedding) for op in maps):
        return None
    centred: list[Op] = []
    for op in maps:
        if isinstance(op, Affine):
            weights = tuple(w - w.mean(0) for w in op.weights)
            centred.append(replace(op, weights=weights, bias=op.bias - op.bias.mean(),
                                   positions=_centred(op.positions)))  # fmt: skip
        elif isinstance(op, Embedding):
            weight = op.weight - op.weight.mean(1, keepdim=True)
            centred.append(replace(op, weight=weight, positions=_centred(op.positions)))
    return graph.replace([*centred, *(replace(norm, kind="rms") for norm in norms)])


def _writers(graph: Graph, name: str) -> set[str]:
    """What is summed up in a stream."""
    op = graph[name]
    if isinstance(op, Residual | Code | Pool):
        return set().union(*(_writers(graph, source) for source in op.sources))
    return {name}


def _centred(positions: Tensor | None) -> Tensor | None:
    return None if positions is None else positions - positions.mean(1, keepdim=True)


@dataclass(frozen=True)
class _Map:
    """Σ parts[name] (out, n) times a value, plus bias (out,) and positions (T, out)."""

    parts: Mapping[str, Tensor] = field(default_factory=dict)
    bias: Tensor | float = 0.0
    positions: Tensor | None = None

    def plus(self, other: _Map) -> _Map:
        parts = dict(self.parts)
        for name, weight in other.parts.items():
            parts[name] = parts[name] + weight if name in parts else weight
        at = self.positions
        if other.positions is not None:
            at = other.positions if at is None else at + other.positions
        return _Map(parts, self.bias + other.bias, at)

    def then(self, weight: Tensor, bias: Tensor | float = 0.0) -> _Map:
        parts = {name: weight @ part for name, part in self.parts.items()}
        moved = weight @ self.bias if isinstance(self.bias, Tensor) else 0.0
        at = None if self.positions is None else self.positions @ weight.T
        return _Map(parts, moved + bias, at)


def fuse_affine(graph: Graph, embed_table: bool = True) -> Graph | None:
    """One map for each reader, of the codes behind tables; None where a norm measures the stream.

    What the embedding of features gives is looked up all the same, behind the first norm, where
    there is an `embed_table`: it is a layer more, and folded away it cost narrow sums accuracy.
    """
    if not all(op.is_affine for op in graph.ops if isinstance(op, Normalize)):
        return None
    model = graph.model
    if model.padding is not None and not model.positionwise and model.pooling in (None, "mean"):
        return None  # a mean over tokens whose number is encrypted is no affine map
    return _Fusion(graph, embed_table).run()


class _Fusion:
    """One walk over one graph, from the logits' side: each map is that of all it reads."""

    def __init__(self, graph: Graph, embed_table: bool) -> None:
        self.graph = graph
        self.cut = self._cut() if embed_table else {}
        self.extra: dict[str, Op] = {}  # pools of atoms, and what they read
        self.known: dict[str, _Map] = {}

    def run(self) -> Graph:
        made: dict[str, Op] = {}

        def add(op: Op) -> None:
            for source in op.sources:
                if source in self.extra and source not in made:
                    add(self.extra[source])
            made[op.name] = op

        for op in self.graph.ops:
            if isinstance(op, Head):
                add(self._affine(op))
            elif op.name in self.cut:
                for new in self.cut[op.name]:
                    add(new)
            elif self._is_atom(op):
                for source in op.sources:
                    before = self.graph[source]
                    if isinstance(before, Affine) and source not in made:
                        add(self._affine(before))
                add(op)
        return replace(self.graph, ops=tuple(made.values()))

    def _cut(self) -> dict[str, list[Op]]:
        """The embedding of features with the first norm in it, and its table, by where it stood."""
        graph = self.graph
        if not isinstance(graph.ops[0], Features):
            return {}
        embed, code = graph["embed"], graph["stream_quant"]
        assert isinstance(embed, Affine) and isinstance(code, Code)
        self.norm = next((op for op in graph.readers(code.name) if isinstance(op, Normalize)), None)
        gain = torch.ones_like(embed.bias) if self.norm is None else self.norm.weight
        shift = torch.zeros_like(embed.bias) if self.norm is None else self.norm.bias
        new = _Map({INPUT: embed.weights[0]}, embed.bias, embed.positions)
        new = new.then(torch.diag(gain), shift)
        looked_up = Code(EMBEDDED, ("embed",), "activation")
        back = torch.where(gain == 0, 0.0, 1 / gain)
        self.stream = _Map({EMBEDDED: torch.diag(back)}, -shift * back)
        return {
            INPUT: [graph.ops[0]],
            "embed": [self._made(embed, new)],
            code.name: [looked_up],
        }

    def _is_atom(self, op: Op) -> bool:
        passed = isinstance(op, Code) and op.role in ("stream", "branch", "restart")
        return not (passed or isinstance(op, Affine | Normalize | Residual | Pool | Total))

    def map_of(self, name: str) -> _Map:
        """A value as a map of atoms."""
        if name not in self.known:
            self.known[name] = self._map_of(self.graph[name])
        return self.known[name]

    def _map_of(self, op: Op) -> _Map:
        if self.cut and op.name == "stream_quant":
            return self.stream
        if self.cut and self.norm is not None and op.name == self.norm.name:
            return _Map({EMBEDDED: torch.eye(len(self.norm.weight))}, 0.0 * self.norm.bias)
        match op:
            case Affine():
                total = _Map()
                for source, weight in zip(op.sources, op.weights, strict=True):
                    total = total.plus(self.map_of(source).then(weight))
                return total.plus(_Map({}, op.bias, op.positions))
            case Normalize():
                return self.map_of(op.sources[0]).then(torch.diag(op.weight), op.bias)
            case Residual():
                return self.map_of(op.sources[0]).plus(self.map_of(op.sources[1]))
            case Code() if not self._is_atom(op):
                return self.map_of(op.sources[0])
            case Pool():
                return self._pooled(self.map_of(op.sources[0]))
            case Total():
                return self._totalled(self.map_of(op.sources[0]))
        return _Map({op.name: torch.eye(self._width(op))}, torch.zeros(self._width(op)))

    def _totalled(self, tokens: _Map) -> _Map:
        """The sum of a map is the map of sums; embedded padding is zero, and so has no offset."""
        parts = {}
        for name, weight in tokens.parts.items():
            if name in self.graph.of_tokens():  # several tokens meet
                self.extra[EMBEDDED] = Code(EMBEDDED, (name,), "activation")
                name = EMBEDDED
            total = Total(f"{name}_total", (name,))
            self.extra[total.name] = total
            parts[total.name] = weight
        return _Map(parts)

    def _pooled(self, tokens: _Map) -> _Map:
        """A pool of a map is the map of pools; in a row, one beside the other for every token."""
        parts = {}
        count = self.graph.model.tokens if self.graph.model.pooling == "row" else 1
        for name, weight in tokens.parts.items():
            if name in self.graph.of_tokens():  # several tokens meet: no longer known in the clear
                self.extra[EMBEDDED] = Code(EMBEDDED, (name,), "activation")
                name = EMBEDDED
            pool = Pool(f"{name}_pool", (name,))
            self.extra[pool.name] = pool
            parts[pool.name] = torch.block_diag(*[weight] * count)
        bias = tokens.bias
        if count > 1 and isinstance(bias, Tensor):
            bias = bias.repeat(count)
        if tokens.positions is not None:
            bias = bias + pooled(self.graph.model, tokens.positions.unsqueeze(0), None)[0]
        return _Map(parts, bias)

    def _affine(self, op: Affine) -> Affine:
        return self._made(op, self.map_of(op.name))

    def _made(self, op: Affine, found: _Map) -> Affine:
        bias = found.bias + torch.zeros_like(op.bias)
        names, weights = tuple(found.parts), tuple(found.parts.values())
        return replace(op, sources=names, weights=weights, bias=bias, positions=found.positions)

    def _width(self, op: Op) -> int:
        model = self.graph.model
        match op:
            case Features():
                return model.features or 0
            case InARow():
                return model.tokens * (model.features or 0)
            case Embedding():
                return op.weight.shape[1]
            case Code() if op.name == WINDOW:
                return model.window_dim or 0
            case Attend():
                return model.heads * model.head_value_dim
            case Code() if op.name == POOLED:
                return model.dim
        return model.mlp_dim  # of hidden units


REWRITES: Mapping[Rewrite, Callable[[Graph, bool], Graph | None]] = {
    "mean": fold_mean,
    "affine": fuse_affine,
}


def foldable(model: ModelConfig) -> tuple[Rewrite, ...]:
    """The rewrites whose pattern stands in models of this shape."""
    with torch.random.fork_rng():
        graph = read_tokens_directly(graph_of(Transformer(model).eval()))
    return tuple(name for name, rewrite in REWRITES.items() if rewrite(graph, True) is not None)
