"""Tiny integer programs: one with every node, and random ones for hypothesis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from hypothesis import strategies as st

from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import (
    OPERATORS,
    Add,
    AddConst,
    ArgMax,
    Broadcast,
    Concat,
    Constant,
    IntArray,
    Linear,
    MatMul,
    Max,
    Mul,
    Node,
    Port,
    Program,
    Reshape,
    Round,
    Scale,
    Slice,
    Sub,
    Sum,
    Table,
    Transpose,
)
from torusformer.fhe_compile.program.ranges import Interval


class Builder:
    """Appends nodes and keeps the proved range of every value."""

    def __init__(self, *ports: Port) -> None:
        self.inputs = ports
        self.nodes: list[Node] = []
        self.ranges: dict[str, Interval] = {p.name: Interval.of(p) for p in ports}

    def add(self, node: Node) -> str:
        self.nodes.append(node)
        self.ranges[node.name] = node.reach([self.ranges[i] for i in node.inputs])
        return node.name

    def table(self, name: str, layer: str, x: str, function) -> str:
        """A table of a vectorized function over x's whole range."""
        lo, hi = int(self.ranges[x].lo.min()), int(self.ranges[x].hi.max())
        return self.add(Table(name, layer, (x,), np.array(-lo), function(np.arange(lo, hi + 1))))

    def program(self, *outputs: str, **metadata: str) -> Program:
        ports = tuple(self.port(name) for name in outputs)
        return Program(self.inputs, ports, tuple(self.nodes), metadata)

    def port(self, name: str) -> Port:
        x = self.ranges[name]
        return Port(name, x.shape, int(x.lo.min()), int(x.hi.max()))


def same_outputs(before: Program, after: Program) -> None:
    """Both give the same integers for inputs drawn at random."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = random_inputs(before, rng)
        found, expected = interpret(after, x), interpret(before, x)
        for port in before.outputs:
            assert np.array_equal(found[port.name], expected[port.name])


def classifier() -> Program:
    """Two features of three bits, a table each, three classes; keys take a second."""
    b = Builder(Port("x", (1, 2), 0, 7, np.array(0.5)))
    b.table("act", "act", "x", lambda n: (n * n) % 8)
    b.add(Linear("logits", "head", ("act",), np.array([[1, -1, 2], [-1, 1, 1]])))
    return b.program("logits", labels='["a", "b", "c"]')


def every_node() -> Program:
    """Each node once or twice, tables of at most 4 bits but one, real structure around them."""
    b = Builder(Port("x", (2, 3), -2, 1), Port("y", (2, 2), 0, 3))
    weight = np.array([[1, 0, -1, 1], [0, 1, 1, -1], [1, -1, 0, 0]])
    b.add(Linear("acc", "fc", ("x",), weight))
    b.add(AddConst("biased", "fc", ("acc",), np.array([1, 0, -2, 3])))
    # one table a channel, laid end to end
    lo, hi = int(b.ranges["biased"].lo.min()), int(b.ranges["biased"].hi.max())
    span = hi - lo + 1
    channels = np.concatenate([np.clip(np.arange(lo, hi + 1) // (c + 1), -2, 1) for c in range(4)])
    b.add(Table("act", "fc", ("biased",), np.arange(4) * span - lo, channels))
    b.add(Reshape("folded", "move", ("act",), (2, 2, 2)))
    b.add(Transpose("turned", "move", ("folded",), (1, 0, 2)))
    b.add(Slice("part", "move", ("turned",), (0, 0, 0), (2, 2, 2), (1, 1, 2)))  # (2, 2, 1)
    b.add(Reshape("square", "move", ("part",), (2, 2)))
    b.add(MatMul("scores", "attn.scores", ("square", "y")))
    b.add(AddConst("half", "attn.scores", ("scores",), np.array(2)))
    b.add(Round("rounded", "attn.scores", ("half",), 2))
    b.table("prob", "attn.prob", "rounded", lambda n: np.clip(n, -1, 2))
    b.add(Constant("ones", "attn", (), np.array([[1, -1]])))
    b.add(Add("shifted", "attn", ("prob", "ones")))
    b.add(Concat("joined", "attn", ("shifted", "square"), 1))  # (2, 4)
    b.add(Scale("scaled", "attn", ("joined",), np.array([1, -1, 2, 1])))
    b.add(Sum("total", "pool", ("scaled",), (1,), True))  # (2, 1)
    b.add(Broadcast("spread", "pool", ("total",), (2, 2)))
    b.table("narrow", "pool", "spread", lambda n: n % 3)
    b.add(Mul("gated", "gate", ("narrow", "y")))
    b.table("gate", "gate", "gated", lambda n: (n + 1) // 2)
    b.add(Mul("kept", "kept", ("narrow", "square")))
    b.add(Sub("difference", "head", ("kept", "gate")))
    return b.program("difference", "rounded", "x", "biased", task="test")


@st.composite
def programs(draw: st.DrawFn, nodes: int = 8, bits: int = 4) -> Program:
    """A random program of up to `nodes` nodes, see `random_program`."""
    return random_program(draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, nodes)), bits)


def random_program(seed: int, nodes: int, bits: int) -> Program:
    """Tables read at most `bits` bits, or `bits` + 3 of which a rounding drops some."""
    rng = np.random.default_rng(seed)
    shape = [(2,), (2, 2), (1, 3), (2, 1, 2)][rng.integers(4)]
    lo = int(rng.integers(-3, 2))
    ports = [Port("x", shape, lo, lo + int(rng.integers(1, 4)))]
    if rng.integers(3) == 0:
        ports.append(Port("token", shape, 0, 1, one_hot=True))
    b = Builder(*ports)
    values = [port.name for port in ports]
    operators = list(DRAWN)
    for i in range(nodes):
        op = operators[rng.integers(len(operators))]
        source = values[rng.integers(len(values))]
        alike = [v for v in values if b.ranges[v].shape == b.ranges[source].shape]
        other = alike[rng.integers(len(alike))]
        made = DRAWN[op](rng, b, f"{op}{i}", source, other)
        if made is not None:
            values.append(_narrowed(rng, b, made, bits))
    unread = [v for v in values if not any(v in n.inputs for n in b.nodes)]
    return b.program(*unread[-2:])


Draw = Callable[[np.random.Generator, Builder, str, str, str], str | None]


def _ints(rng: np.random.Generator, *size: int) -> IntArray:
    return rng.integers(-2, 3, size)


def _linear(rng, b, name, x, other):
    shape = b.ranges[x].shape
    return b.add(Linear(name, "l", (x,), _ints(rng, shape[-1], 2))) if shape else None


def _sum(rng, b, name, x, other):
    shape = b.ranges[x].shape
    axes = (int(rng.integers(len(shape))),) if shape else ()
    return b.add(Sum(name, "l", (x,), axes, bool(rng.integers(2)))) if shape else None


def _matmul(rng, b, name, x, other):
    rank = len(b.ranges[x].shape)
    if rank < 2:
        return None
    b.add(Transpose(f"{name}.t", "l", (other,), (*range(rank - 2), rank - 1, rank - 2)))
    return b.add(MatMul(name, "l", (x, f"{name}.t")))


def _argmax(rng, b, name, x, other):
    return b.add(ArgMax(name, "l", (x,))) if len(b.ranges[x].shape) > 1 else None


def _table(rng, b, name, x, other):
    return _random_table(rng, b, name, "l", x, channels=bool(rng.integers(2)))


def _transpose(rng, b, name, x, other):
    perm = tuple(int(i) for i in rng.permutation(len(b.ranges[x].shape)))
    return b.add(Transpose(name, "l", (x,), perm))


def _slice(rng, b, name, x, other):
    shape = b.ranges[x].shape
    ends = tuple(int(rng.integers(1, n + 1)) for n in shape)
    ones = (1,) * len(shape)
    return b.add(Slice(name, "l", (x,), (0,) * len(shape), ends, ones)) if shape else None


def _concat(rng, b, name, x, other):
    shape = b.ranges[x].shape
    if not shape or math.prod(shape) >= 12:
        return None
    return b.add(Concat(name, "l", (x, other), int(rng.integers(len(shape)))))


def _broadcast(rng, b, name, x, other):
    shape = b.ranges[x].shape
    return b.add(Broadcast(name, "l", (x,), (2, *shape))) if math.prod(shape) < 12 else None


# How each operator is drawn: on a value, and perhaps another of its shape; None if it cannot be.
DRAWN: Mapping[str, Draw] = {
    "Linear": _linear,
    "Add": lambda rng, b, name, x, other: b.add(Add(name, "l", (x, other))),
    "Sub": lambda rng, b, name, x, other: b.add(Sub(name, "l", (x, other))),
    "AddConst": lambda rng, b, name, x, other: b.add(
        AddConst(name, "l", (x,), _ints(rng, *b.ranges[x].shape))
    ),
    "Scale": lambda rng, b, name, x, other: b.add(
        Scale(name, "l", (x,), _ints(rng, *b.ranges[x].shape))
    ),
    "Sum": _sum,
    "Mul": lambda rng, b, name, x, other: b.add(Mul(name, "l", (x, other))),
    "MatMul": _matmul,
    "Max": lambda rng, b, name, x, other: b.add(Max(name, "l", (x, other))),
    "ArgMax": _argmax,
    "Table": _table,
    "Round": lambda rng, b, name, x, other: b.add(Round(name, "l", (x,), int(rng.integers(1, 3)))),
    "Reshape": lambda rng, b, name, x, other: b.add(
        Reshape(name, "l", (x,), (math.prod(b.ranges[x].shape), 1))
    ),
    "Transpose": _transpose,
    "Slice": _slice,
    "Concat": _concat,
    "Broadcast": _broadcast,
    "Constant": lambda rng, b, name, x, other: b.add(
        Constant(name, "l", (), _ints(rng, *b.ranges[x].shape))
    ),
}
if forgotten := OPERATORS.keys() ^ DRAWN.keys():
    raise TypeError(f"say how to draw {', '.join(sorted(forgotten))}")


def _random_table(
    rng: np.random.Generator, b: Builder, name: str, layer: str, x: str, channels: bool
) -> str:
    lo, hi = int(b.ranges[x].lo.min()), int(b.ranges[x].hi.max())
    shape, span = b.ranges[x].shape, hi - lo + 1
    count = shape[-1] if channels and shape else 1
    offset = np.arange(count) * span - lo if count > 1 else np.array(-lo)
    return b.add(Table(name, layer, (x,), offset, rng.integers(-2, 4, count * span)))


def _narrowed(rng: np.random.Generator, b: Builder, name: str, bits: int) -> str:
    """The value itself, or after a rounding and a table if it has become wide."""
    x = b.ranges[name]
    wide = int(x.hi.max() - x.lo.min()).bit_length()
    if wide <= bits:
        return name
    if wide > bits + 3 or rng.integers(2):
        b.add(Round(f"{name}.round", "layer.narrow", (name,), wide - bits + 1))
        name = f"{name}.round"
    return _random_table(rng, b, f"{name}.table", "layer.narrow", name, channels=False)


def random_inputs(
    program: Program, rng: np.random.Generator, extreme: str = ""
) -> dict[str, IntArray]:
    """Inputs inside the ports' bounds; `extreme` is "", "lo" or "hi"."""
    return {port.name: _random_input(port, rng, extreme) for port in program.inputs}


def _random_input(port: Port, rng: np.random.Generator, extreme: str) -> IntArray:
    if port.one_hot:
        count = port.shape[-1]
        indices = {"": rng.integers(0, count, port.shape[:-1]), "lo": 0, "hi": count - 1}[extreme]
        return np.eye(count, dtype=np.int64)[np.broadcast_to(indices, port.shape[:-1])]
    if extreme:
        return np.full(port.shape, getattr(port, extreme))
    return rng.integers(port.lo, port.hi + 1, port.shape)


def same(a: Mapping[str, IntArray], b: Mapping[str, IntArray]) -> bool:
    """Equal integers under equal names."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
