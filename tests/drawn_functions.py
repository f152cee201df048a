"""Pieces of random graphs: functions of each number, or of two, which become tables or sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.drawn_graphs import Drawn, Grow
from tests.drawn_operators import ANY, PIECES, Piece, _narrow

# Of one number: attributes, and the interval that the number is brought into; None: any.
UNARY: dict[str, tuple[dict[str, Any], tuple[float, float] | None]] = {
    "Abs": ({}, None), "Ceil": ({}, None), "Floor": ({}, None), "Round": ({}, None),
    "Neg": ({}, None), "Relu": ({}, None), "Sign": ({}, None),
    "Acos": ({}, (-0.9, 0.9)), "Asin": ({}, (-0.9, 0.9)), "Atan": ({}, None),
    "Celu": ({"alpha": 0.7}, None), "Cos": ({}, None), "Cosh": ({}, (-2, 2)),
    "Elu": ({"alpha": 0.7}, None), "Erf": ({}, None), "Exp": ({}, (-2, 2)),
    "Gelu": ({}, None), "HardSigmoid": ({"alpha": 0.25}, None), "HardSwish": ({}, None),
    "LeakyRelu": ({"alpha": 0.25}, None), "Log": ({}, (0.2, 3)), "Mish": ({}, None),
    "Reciprocal": ({}, (0.4, 2)), "Selu": ({}, None), "Sigmoid": ({}, None), "Sin": ({}, None),
    "Sinh": ({}, (-2, 2)), "Softplus": ({}, None), "Softsign": ({}, None),
    "Sqrt": ({}, (0.2, 3)), "Tan": ({}, (-1, 1)), "Tanh": ({}, None),
    "ThresholdedRelu": ({"alpha": 0.6}, None),
}  # fmt: skip
EXACT = frozenset({"Abs", "Ceil", "Floor", "Round", "Neg", "Relu", "Sign", "LeakyRelu"})
SINCE = {
    "Celu": 12, "Gelu": 20, "HardSwish": 14, "Mish": 18, "ThresholdedRelu": 10, "Round": 11,
    "Mod": 10, "Equal": 11, "Einsum": 12, "LessOrEqual": 12, "GreaterOrEqual": 12, "looked up": 11,
    "Softmax": 13, "LogSoftmax": 13, "Hardmax": 13, "QuantizeLinear": 13, "TopK": 10,
}  # fmt: skip


def _unary(op: str) -> Grow:
    attributes, interval = UNARY[op]

    def grow(g: Drawn) -> str:
        y, exact = g.x, g.exact
        g.exact = g.exact and op in EXACT
        if interval is not None:
            values = g.values(y)
            low, high = float(values.min()), float(values.max())
            slope = 0.4 * (interval[1] - interval[0]) / (max(abs(low), abs(high)) or 1.0)
            y = g.op("Mul", y, g.const(slope))
            y = g.op("Add", y, g.const(sum(interval) / 2 + 1e-3))
            y = g.op("Max", y, g.const(interval[0])) if g.chance(0.3) else y
            if interval[0] > 0:
                y = g.op("Add", g.op("Abs", y), g.const(0.1))
        elif g.chance(0.5) and (exact or op not in ("Ceil", "Floor", "Round", "Sign")):
            y = g.op("Add", y, g.const(g.number(-1, 1)))
        return g.op(op, y, **attributes)

    return grow


def _other(g: Drawn) -> tuple[str, str]:
    """Two tensors of two bits and their own grids."""
    x = _narrow(g, g.x)
    y = g.op("Mul", x, g.const(g.numbers(-1, 1, *g.size[-1:]) + 0.125))
    return x, _narrow(g, y)


def _two(op: str) -> Grow:
    def grow(g: Drawn) -> str:
        if g.chance(0.4) or op in ("Div", "Pow", "Mod"):
            y = g.x
            if op == "Pow":
                power = g.pick((2.0, 3.0))
                return g.op("Pow", g.op("Abs", y) if g.chance(0.3) else y, g.const(power))
            if op == "Div" and g.chance(0.5):
                below = g.op("Add", g.op("Abs", _narrow(g, y)), g.const(1.0))
                g.exact = False
                return g.op("Div", g.const(g.number(1, 2)), below)
            constant = g.pick((0.5, 2.0, 1.0)) if op in ("Div", "Mod") else g.number(-1, 1) or 1.0
            more = {"fmod": 1} if op == "Mod" else {}
            first = op in ("Div", "Mod") or g.chance(0.7)
            given = (y, g.const(constant)) if first else (g.const(constant), y)
            return g.op(op, *given, **more)
        return g.op(op, *_other(g))

    return grow


def _compared(op: str) -> Grow:
    """A comparison, told as numbers or used to choose."""

    def grow(g: Drawn) -> str:
        g.exact, exact = g.exact, g.exact
        x, y = (_narrow(g, g.x), g.const(g.number(-1, 1) if exact else 0.1234))
        if g.chance(0.3) and exact:
            x, y = _other(g)
        met = g.op(op, x, y)
        if g.chance(0.3):
            met = g.op("Not", met)
        if g.chance(0.4):
            met = g.op(g.pick(("And", "Or", "Xor")), met, g.op("Less", x, g.const(0.771)))
        if g.chance(0.5):
            return g.op("Cast", met, to=TensorProto.FLOAT)
        return g.op("Where", met, x, g.const(g.number(-1, 1)))

    return grow


def _logic(op: str) -> Grow:
    def grow(g: Drawn) -> str:
        x = _narrow(g, g.x)
        first, then = (g.op(o, x, g.const(c)) for o, c in (("Greater", 0.137), ("Less", -0.213)))
        met = g.op(op, first) if op == "Not" else g.op(op, first, then)
        return g.op("Cast", met, to=TensorProto.FLOAT)

    return grow


def _clip(g: Drawn) -> str:
    low, high = g.number(-1, 0), g.number(0.25, 1)
    if g.opset < 11:
        return g.op("Clip", g.x, min=low, max=high)
    return g.op("Clip", g.x, g.const(low), g.const(high))


def _prelu(g: Drawn) -> str:
    slopes = g.numbers(0.125, 0.5, *g.size[1:2], *(1 for _ in g.size[2:]))
    return g.op("PRelu", g.x, g.const(slopes))


def _where(g: Drawn) -> str:
    return g.op("Where", g.const(np.arange(g.size[-1]) % 2, bool), g.x, g.const(g.number(-1, 1)))


def _residual(op: str) -> Grow:
    """Two tensors on one grid, or on grids of a small ratio: a sum without a table."""

    def grow(g: Drawn) -> str:
        scale = g.unit(float(np.abs(g.values(g.x)).max()) / 2 or 1.0)
        x = _narrow(g, g.x, scale)
        other = g.op("Neg", x) if g.chance(0.2) else g.op("Relu", x)
        y = _narrow(g, other, scale * g.pick((1.0, 1.0, 0.5, 2.0)))
        given = [x, y, x][: g.pick((2, 3)) if op in ("Sum", "Mean") else 2]
        g.exact = g.exact and (op != "Mean" or len(given) == 2)
        return g.op(op, *given)

    return grow


def _looked_up(g: Drawn) -> str:
    """A vector read at encrypted places."""
    x = g.quant(g.x, g.unit(float(np.abs(g.values(g.x)).max()) / 3 or 1.0), 2, signed=False)
    steps = g.op("Div", x, g.nodes[-1].input[1])
    places = g.op("Cast", g.op("Round", steps), to=TensorProto.INT64)
    return g.op("Gather", g.const(g.numbers(-1, 1, 4)), places)


def _folded(g: Drawn) -> str:
    """Constants that other constants give."""
    a = g.op("Sqrt", g.const(np.full(g.size[-1:], 4.0)))
    return g.op("Mul", g.x, g.op("Div", a, g.const(4.0)))


PIECES_OF_NUMBERS: Mapping[str, Piece] = {
    **{op: (ANY, _unary(op)) for op in UNARY},
    **{op: (ANY, _two(op)) for op in ("Max", "Min", "Mul", "Div", "Pow", "Mod")},
    **{op: (ANY, _compared(op)) for op in ("Equal", "Greater", "GreaterOrEqual", "Less",
                                           "LessOrEqual")},
    **{op: (ANY, _logic(op)) for op in ("And", "Or", "Xor", "Not")},
    **{op: (ANY, _residual(op)) for op in ("Add", "Sub", "Sum", "Mean")},
    "Clip": (ANY, _clip), "PRelu": (ANY, _prelu), "Where": (ANY, _where),
    "looked up": (("line", "rows", "flat"), _looked_up), "Constant": (ANY, _folded),
}  # fmt: skip
ALL: Mapping[str, Piece] = {**PIECES, **PIECES_OF_NUMBERS}
