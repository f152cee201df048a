"""Random QONNX models: pieces one after the other, a quantizer behind each, and an ending."""

from __future__ import annotations

import numpy as np

from tests.drawn_functions import ALL, PIECES_OF_NUMBERS, SINCE
from tests.drawn_graphs import NEWEST, OLDEST, SHAPES, Drawn, Model
from tests.drawn_operators import PIECES

QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant", "MultiThreshold", "QuantizeLinear")
ENDINGS = ("ArgMax", "TopK", "Softmax", "LogSoftmax", "Hardmax", "Sigmoid")
NAMES = (*PIECES, *QUANTIZERS, *ENDINGS, *PIECES_OF_NUMBERS)
FAMILIES = tuple(SHAPES)


def draw(seed: int, about: str, *, tiny: bool = False) -> Model:
    """A model in which `about`, one of NAMES, occurs, if its other pieces leave room for it."""
    rng = np.random.default_rng(seed)
    families, _ = ALL.get(about, (FAMILIES, None))
    family = families[int(rng.integers(len(families)))]
    since = SINCE.get(about, 0)
    opset = OLDEST if about == "Upsample" else max(NEWEST, since) if since else 0
    g = Drawn(seed, family, tiny=tiny, opset=opset)
    pieces = [about] if about in ALL else []
    for _ in range(int(rng.integers(0, 2 if tiny else 3))):
        pieces.insert(int(rng.integers(len(pieces) + 1)), g.pick(_that_fit(g, family)))
    read = g.x
    for piece in pieces or [g.pick(("Relu", "Reshape", "Add"))]:
        if not _fits(g, piece):
            continue
        read = ALL[piece][1](g) or g.x
        plain = g.chance(0.3)
        if about in QUANTIZERS:
            g.x = _by(g, about, read)
        else:
            g.x = g.quantized(read, plain=plain)
    return _ended(g, seed, about, read)


def _that_fit(g: Drawn, family: str) -> list[str]:
    return [name for name, (families, _) in ALL.items() if family in families
            and SINCE.get(name, 0) <= g.opset and (name != "Upsample" or g.opset < 10)]  # fmt: skip


def _fits(g: Drawn, piece: str) -> bool:
    """Whether the tensor still has axes for it: pieces before may have taken some."""
    families, _ = ALL[piece]
    rank = len(g.size)
    return rank > 1 and rank in {{"image": 4, "line": 3, "rows": 3, "flat": 2}[f] for f in families}


def _by(g: Drawn, kind: str, x: str) -> str:
    """Quantized by a node of this kind."""
    about = float(np.abs(g.values(x)).max()) or 1.0
    if kind == "QuantizeLinear":
        return g._linear(x, about, False) if g.opset >= 13 else g.quantized(x, plain=True)
    if kind == "Quant":
        return g.quantized(x, plain=True)
    return getattr(g, f"_{kind.lower()}")(x, about, False)


def _ended(g: Drawn, seed: int, about: str, read: str) -> Model:
    """The last quantizer's tensor, also what it read, or a linear layer and what follows it."""
    size = g.size
    if about in ENDINGS:
        y = g.op("Flatten", g.x) if len(size) != 2 else g.x
        width = g.shape_of(y)[-1]
        y = g.op("Gemm", y, g.weights((3, width), 0), g.const(g.numbers(-1, 1, 3)), transB=1)
        more = {} if about in ("Sigmoid", "TopK") else {"axis": 1}
        if about == "TopK":
            g.op("TopK", y, g.const([2], np.int64), axis=1)
            g.nodes[-1].output.append("places")
            return g.drawn(seed, ends=g.nodes[-1].output[0])
        if about == "ArgMax":
            more["keepdims"] = int(g.chance(0.5))
        return g.drawn(seed, ends=g.op(about, y, **more))
    if g.chance(0.3) and len(size) in (2, 3) and size[-1] > 1:
        return g.drawn(seed, g.op("MatMul", g.x, g.weights((size[-1], 2), 1)))
    return g.drawn(seed, g.x)
