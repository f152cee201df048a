"""Pieces of random graphs: operators that combine or move numbers, each under its name.

A piece reads `g.x` and returns a tensor that the next quantizer reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.drawn_graphs import Drawn, Grow

PLANAR = ("image", "line")
ANY = ("image", "line", "rows", "flat")
Piece = tuple[tuple[str, ...], Grow]


def _window(g: Drawn) -> dict[str, Any]:
    """Attributes of a window that fits."""
    spatial = g.size[2:]
    kernel = [int(g.rng.integers(1, min(3, n) + 1)) for n in spatial]
    found: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [g.pick((1, 1, 2)) for _ in spatial],
    }
    if g.chance(0.25):
        found["auto_pad"] = g.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif g.chance(0.4):
        found["pads"] = [int(g.rng.integers(0, (k + 1) // 2)) for k in kernel * 2]
    return found


def _conv(g: Drawn) -> str:
    channels = g.size[1]
    window = _window(g)
    kernel = window["kernel_shape"]
    groups = g.pick((1, channels)) if channels > 1 else 1
    outputs = groups * g.pick((1, 1, 2)) if groups > 1 else int(g.rng.integers(1, 3))
    if g.chance(0.3) and "auto_pad" not in window:
        reach = [n + sum(window.get("pads", [0] * 9)[i :: len(kernel)][:2])
                 for i, n in enumerate(g.size[2:])]  # fmt: skip
        window["dilations"] = [
            1 if k == 1 else int(g.rng.integers(1, (n - 1) // (k - 1) + 1))
            for k, n in zip(kernel, reach, strict=True)
        ]
    weights = g.weights((outputs, channels // groups, *kernel), 0)
    bias = [g.const(g.numbers(-1, 1, outputs))] * g.chance(0.5)
    y = g.op("Conv", g.x, weights, *bias, group=groups, **window)
    return g.op("Relu", y) if g.chance(0.3) else y


def _transposed(g: Drawn) -> str:
    channels, outputs = g.size[1], int(g.rng.integers(1, 3))
    rank = len(g.size) - 2
    kernel = [int(g.rng.integers(1, 3)) for _ in range(rank)]
    strides = [g.pick((1, 2)) for _ in range(rank)]
    more: dict[str, Any] = {"strides": strides}
    if g.chance(0.4):
        more["output_padding"] = [s - 1 for s in strides]
    if g.chance(0.3):
        more["pads"] = [0] * rank + [int(k > 1) for k in kernel]
    weights = g.weights((channels, outputs, *kernel), 1)
    bias = [g.const(g.numbers(-1, 1, outputs))] * g.chance(0.5)
    return g.op("ConvTranspose", g.x, weights, *bias, **more)


def _pool(op: str) -> Grow:
    def grow(g: Drawn) -> str:
        window = _window(g)
        if op == "AveragePool" and g.chance(0.4):
            window["count_include_pad"] = 1
        elif g.chance(0.3) and g.opset >= 10:
            # Of a window that begins past the end, which ONNX has not, ONNX Runtime makes -3e38.
            parts = zip(window["kernel_shape"], window["strides"], strict=True)
            window["ceil_mode"] = int(all(k >= s for k, s in parts))
        if any(n > 1 for n in window["kernel_shape"]) and op == "AveragePool":
            g.exact = False
        y = g.op(op, g.x, **window)
        return g.op("Relu", y) if g.chance(0.3) else y

    return grow


def _reduce(op: str) -> Grow:
    def grow(g: Drawn) -> str:
        rank = len(g.size)
        axes = sorted({int(g.rng.integers(rank - 1, rank)), int(g.rng.integers(1, rank))})
        given = [a - rank if g.chance(0.3) else a for a in axes]
        if op == "ReduceMean":
            g.exact = False
        since = 13 if op == "ReduceSum" else 18
        return g.listed(op, g.x, since, {"axes": given}, keepdims=int(g.chance(0.6)))

    return grow


def _global(op: str) -> Grow:
    def grow(g: Drawn) -> str:
        g.exact = g.exact and op == "GlobalMaxPool"
        return g.op(op, g.x)

    return grow


def _matmul(g: Drawn) -> str:
    width = g.size[-1]
    shape = (width, int(g.rng.integers(1, 4)))
    if len(g.size) == 3 and g.chance(0.3):
        rows = g.size[-2]
        return g.op("MatMul", g.weights((2, rows), 0), g.x)
    y = g.op("MatMul", g.x, g.weights(shape, 1))
    return g.op("Add", y, g.const(g.numbers(-1, 1, shape[1]))) if g.chance(0.5) else y


def _gemm(g: Drawn) -> str:
    outputs, width = int(g.rng.integers(1, 4)), g.size[-1]
    turned = g.chance(0.5)
    weights = g.weights((outputs, width) if turned else (width, outputs), 0 if turned else 1)
    attributes: dict[str, Any] = {"transB": int(turned)}
    if g.chance(0.3):
        attributes |= {"alpha": g.pick((0.5, 2.0, -1.0)), "beta": g.pick((1.0, 0.5))}
    return g.op("Gemm", g.x, weights, g.const(g.numbers(-1, 1, outputs)), **attributes)


def _narrow(g: Drawn, y: str, scale: float | None = None) -> str:
    """A tensor of two bits."""
    about = float(np.abs(g.values(y)).max()) or 1.0
    return g.quant(y, scale or g.unit(about / 2), 2, domain=g.domain)


def _einsum(g: Drawn) -> str:
    j = g.size[-1]
    match int(g.rng.integers(4)):
        case 0:
            return g.op("Einsum", g.x, g.weights((j, 2), 1), equation="bij,jk->bik")
        case 1:
            return g.op("Einsum", g.x, equation=g.pick(("bij->bji", "bij->bi", "bij->j")))
        case 2:
            return g.op("Einsum", g.x, g.weights((2, j), 0), equation="bij,kj->kbi")
    x = _narrow(g, g.x)
    y = _narrow(g, g.op("MatMul", x, g.weights((j, j), 1)))
    g.nodes[-1].name += "/1"
    return g.op("Einsum", x, y, equation=g.pick(("bij,bkj->bik", "bij,bij->bi")))


def _attention(g: Drawn) -> str:
    x = _narrow(g, g.x)
    y = _narrow(g, g.op("MatMul", x, g.weights((g.size[-1],) * 2, 1)))
    turned = g.op("Transpose", y, perm=[0, 2, 1])
    return g.op("MatMul", x, turned)


def _batch_norm(g: Drawn) -> str:
    channels = g.size[1]
    gamma, beta, mean = (g.numbers(0.5, 1.5, channels), *(g.numbers(-1, 1, channels),) * 2)
    if g.chance(0.2):
        gamma = -gamma
    variance = np.resize((1, 4, 0.25) if g.exact else (0.7, 1.3), channels)
    parts = (g.const(part) for part in (gamma, beta, mean, variance))
    y = g.op("BatchNormalization", g.x, *parts, epsilon=0.0 if g.exact else 1e-5)
    return g.op("Relu", y) if g.chance(0.5) else y


def _moved(g: Drawn, y: str) -> str:
    """A layout ends in a sum or a function, so that its numbers are read."""
    if g.chance(0.3):
        return g.op("Mul", y, g.const(g.number(0.5, 1.5)))
    return y


def _reshape(g: Drawn) -> str:
    count = int(np.prod(g.size))
    wanted = g.pick(([1, -1], [1, 2 if count % 2 == 0 else 1, -1], [0, -1]))
    return g.op("Reshape", g.x, g.const(wanted, np.int64))


def _squeeze(g: Drawn) -> str:
    y = g.listed("Unsqueeze", g.x, 13, {"axes": [1]})
    z = g.op("Relu", y) if g.chance(0.5) else y
    return g.listed("Squeeze", z, 13, {"axes": g.pick(([1], [0, 1]))})


def _transpose(g: Drawn) -> str:
    rank = len(g.size)
    return g.op("Transpose", g.x, perm=[0, *range(rank - 1, 0, -1)])


def _expand(g: Drawn) -> str:
    shape = g.op("Shape", g.x)
    y = g.listed("Unsqueeze", g.x, 13, {"axes": [1]})
    wanted = g.op("Concat", g.const([1, 2], np.int64), _after_first(g, shape), axis=0)
    return g.op("Expand", y, wanted)


def _after_first(g: Drawn, shape: str) -> str:
    return g.op("Gather", shape, g.const(range(1, len(g.size)), np.int64), axis=0)


def _gather(g: Drawn) -> str:
    axis = int(g.rng.integers(1, len(g.size)))
    places = g.rng.integers(-g.size[axis], g.size[axis], 3)
    given: Any = int(places[0]) if g.chance(0.2) and len(g.size) > 2 else places
    return _moved(g, g.op("Gather", g.x, g.const(given, np.int64), axis=axis))


def _slice(g: Drawn) -> str:
    axis = int(g.rng.integers(1, len(g.size)))
    start, end, step = g.pick(((0, 1, 1), (1, 99, 1), (-1, -99, -1), (0, 99, 2), (-2, 99, 1)))
    if g.opset < 10:
        return g.op("Slice", g.x, starts=[0], ends=[1], axes=[axis])
    return _moved(g, g.listed("Slice", g.x, 10, {"starts": [start], "ends": [end], "axes": [axis],
                                                 "steps": [step]}))  # fmt: skip


def _split(g: Drawn) -> str:
    axis = len(g.size) - 1
    n = g.size[axis]
    values = {"split": [1, n - 1]}
    first = g.listed("Split", g.x, 13, values, axis=axis)
    g.nodes[-1].output.append(first + "b")
    parts = [first + "b", first]
    if g.chance(0.5):
        parts.append(g.op("Expand", g.const(0.5), g.op("Shape", first)))
    return g.op("Concat", *parts, axis=axis)


def _resize(g: Drawn) -> str:
    factors = [1.0, 1.0, *(float(g.pick((1, 2))) for _ in g.size[2:])]
    if g.opset < 10:
        return g.op("Upsample", g.x, g.const(factors), mode="nearest")
    how = g.pick(({"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, {}))
    if g.chance(0.4):
        sizes = [int(n * f) for n, f in zip(g.size, factors, strict=True)]
        return g.op("Resize", g.x, "", "", g.const(sizes, np.int64), mode="nearest", **how)
    return g.op("Resize", g.x, "", g.const(factors), mode="nearest", **how)


def _upsample(g: Drawn) -> str:
    factors = [1.0, 1.0, *(2.0 for _ in g.size[2:])]
    return g.op("Upsample", g.x, g.const(factors), mode="nearest")


def _blocks(g: Drawn) -> str:
    y = g.op("Tile", g.x, g.const([1, 1, 2, 2], np.int64))
    y = g.op("SpaceToDepth", y, blocksize=2)
    if g.chance(0.5):
        y = g.op("Relu", y)
    mode = {"mode": g.pick(("DCR", "CRD"))} if g.opset >= 11 else {}
    z = g.op("DepthToSpace", y, blocksize=2, **mode)
    return z if g.tiny is False else _first_rows(g, z)


def _first_rows(g: Drawn, y: str) -> str:
    if g.opset < 10:
        return g.op("Slice", y, starts=[0], ends=[2], axes=[2])
    values = {"starts": [0], "ends": [2], "axes": [2]}
    return g.listed("Slice", y, 10, values)


def _pad(g: Drawn) -> str:
    rank = len(g.size)
    widths = [0] * (2 * rank)
    widths[-1], widths[rank - 1] = g.pick(((1, 0), (0, 1), (1, -1)))
    if g.opset < 11:
        return g.op("Pad", g.x, pads=widths, value=g.number(-1, 1))
    return g.op("Pad", g.x, g.const(widths, np.int64), g.const(g.number(-1, 1)))


def _trunc(g: Drawn) -> str:
    """Of three or four bits, to fewer, in the older or the newer form."""
    bits, left = (3, 2) if g.tiny else g.pick(((4, 2), (3, 2), (4, 1)))
    about = float(np.abs(g.values(g.x)).max()) or 1.0
    y = g.op("Add", g.x, g.const(g.number(-1, 1)))
    signed = g.chance(0.5)
    scale = g.unit(about / 2 ** (bits - 1))
    y = g.quant(y, scale, bits, signed=signed, domain=g.domain)
    if g.chance(0.5):  # of the integers that a sum has
        y = g.op("Add", y, y)
        scale, bits = 2 * scale, bits + 1
        y, scale = (g.op("Mul", y, g.const(0.5)), scale / 2) if g.chance(0.3) else (y, scale)
    rest = [g.const(float(left))]
    if g.chance(0.5):
        rest.insert(0, g.const(scale * 2 ** (bits - left)))
    given = (y, g.const(scale), g.const(0.0), g.const(float(bits)), *rest)
    rounding = g.pick(("FLOOR", "FLOOR", "ROUND", "CEIL"))
    more = {"signed": int(signed)} if len(rest) == 2 else {}
    return g.op("Trunc", *given, domain=g.domain, rounding_mode=rounding, **more)


def _tile(g: Drawn) -> str:
    counts = [1] * len(g.size)
    counts[-1] = 2
    return _moved(g, g.op("Tile", g.x, g.const(counts, np.int64)))


def _flatten(g: Drawn) -> str:
    return _moved(g, g.op("Flatten", g.x, axis=g.pick((0, 1, 1, 2)) if len(g.size) > 2 else 1))


def _plain(op: str, **attributes: Any) -> Grow:
    return lambda g: _moved(g, g.op(op, g.x, **attributes))


PIECES: Mapping[str, Piece] = {
    "Conv": (PLANAR, _conv),
    "ConvTranspose": (PLANAR, _transposed),
    "MaxPool": (PLANAR, _pool("MaxPool")),
    "AveragePool": (PLANAR, _pool("AveragePool")),
    "GlobalAveragePool": (PLANAR, _global("GlobalAveragePool")),
    "GlobalMaxPool": (PLANAR, _global("GlobalMaxPool")),
    "ReduceMax": (ANY, _reduce("ReduceMax")),
    "ReduceMin": (ANY, _reduce("ReduceMin")),
    "ReduceSum": (ANY, _reduce("ReduceSum")),
    "ReduceMean": (ANY, _reduce("ReduceMean")),
    "MatMul": (("rows", "flat"), _matmul),
    "two encrypted": (("rows",), _attention),
    "Gemm": (("flat",), _gemm),
    "Einsum": (("rows",), _einsum),
    "BatchNormalization": (PLANAR, _batch_norm),
    "Reshape": (ANY, _reshape),
    "Squeeze": (ANY, _squeeze),
    "Transpose": (("image", "line", "rows"), _transpose),
    "Expand": (("line", "rows", "flat"), _expand),
    "Gather": (ANY, _gather),
    "Slice": (ANY, _slice),
    "Split": (ANY, _split),
    "Resize": (("image",), _resize),
    "Upsample": (("image",), _upsample),
    "SpaceToDepth": (("image",), _blocks),
    "Pad": (ANY, _pad),
    "Trunc": (ANY, _trunc),
    "Tile": (ANY, _tile),
    "Flatten": (ANY, _flatten),
    "Identity": (ANY, _plain("Identity")),
    "Dropout": (ANY, _plain("Dropout")),
}
