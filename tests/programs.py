"""Tiny integer programs: one with every node, and random ones for hypothesis."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from hypothesis import strategies as st

from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Broadcast,
    Concat,
    Constant,
    IntArray,
    Linear,
    MatMul,
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
        self.ranges: dict[str, Interval] = {
            p.name: Interval(np.full(p.shape, p.lo), np.full(p.shape, p.hi)) for p in ports
        }

    def add(self, node: Node) -> str:
        self.nodes.append(node)
        self.ranges[node.name] = node.bound([self.ranges[i] for i in node.inputs])
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
        x = {p.name: rng.integers(p.lo, p.hi + 1, p.shape) for p in before.inputs}
        found, expected = interpret(after, x), interpret(before, x)
        for port in before.outputs:
            assert np.array_equal(found[port.name], expected[port.name])


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
    b = Builder(Port("x", shape, lo, lo + int(rng.integers(1, 4))))
    values = ["x"]
    for i in range(nodes):
        kind = KINDS[rng.integers(len(KINDS))]
        source = values[rng.integers(len(values))]
        made = _random_node(rng, b, kind, f"{kind}{i}", source, values)
        if made is not None:
            values.append(_narrowed(rng, b, made, bits))
    unread = [v for v in values if not any(v in n.inputs for n in b.nodes)]
    return b.program(*unread[-2:])


KINDS = [
    "linear",
    "add",
    "sub",
    "addconst",
    "scale",
    "sum",
    "mul",
    "matmul",
    "table",
    "round",
    "reshape",
    "transpose",
    "slice",
    "concat",
    "broadcast",
    "constant",
]


def _random_node(
    rng: np.random.Generator, b: Builder, kind: str, name: str, x: str, values: list[str]
) -> str | None:
    shape, layer = b.ranges[x].shape, f"layer.{kind}"
    alike = [v for v in values if b.ranges[v].shape == shape]
    other = alike[rng.integers(len(alike))]
    axis = int(rng.integers(len(shape))) if shape else 0

    def random(*size: int) -> IntArray:
        return rng.integers(-2, 3, size)

    match kind:
        case "linear" if shape:
            return b.add(Linear(name, layer, (x,), random(shape[-1], 2)))
        case "add":
            return b.add(Add(name, layer, (x, other)))
        case "sub":
            return b.add(Sub(name, layer, (x, other)))
        case "addconst":
            return b.add(AddConst(name, layer, (x,), random(*shape)))
        case "scale":
            return b.add(Scale(name, layer, (x,), random(*shape)))
        case "sum" if shape:
            return b.add(Sum(name, layer, (x,), (axis,), bool(rng.integers(2))))
        case "mul":
            return b.add(Mul(name, layer, (x, other)))
        case "matmul" if len(shape) >= 2:
            turned = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
            b.add(Transpose(f"{name}.t", layer, (other,), turned))
            return b.add(MatMul(name, layer, (x, f"{name}.t")))
        case "table":
            return _random_table(rng, b, name, layer, x, channels=bool(rng.integers(2)))
        case "round":
            return b.add(Round(name, layer, (x,), int(rng.integers(1, 3))))
        case "reshape":
            return b.add(Reshape(name, layer, (x,), (math.prod(shape), 1)))
        case "transpose":
            perm = tuple(int(i) for i in rng.permutation(len(shape)))
            return b.add(Transpose(name, layer, (x,), perm))
        case "slice" if shape:
            ends = tuple(int(rng.integers(1, n + 1)) for n in shape)
            return b.add(Slice(name, layer, (x,), (0,) * len(shape), ends, (1,) * len(shape)))
        case "concat" if shape and b.ranges[x].lo.size < 12:
            return b.add(Concat(name, layer, (x, other), axis))
        case "broadcast" if b.ranges[x].lo.size < 12:
            return b.add(Broadcast(name, layer, (x,), (2, *shape)))
        case "constant":
            return b.add(Constant(name, layer, (), random(*shape)))
    return None


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
    return {
        p.name: np.full(p.shape, getattr(p, extreme))
        if extreme
        else rng.integers(p.lo, p.hi + 1, p.shape)
        for p in program.inputs
    }


def same(a: Mapping[str, IntArray], b: Mapping[str, IntArray]) -> bool:
    """Equal integers under equal names."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
