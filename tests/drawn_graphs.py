"""Random QONNX graphs over every operator that is read, drawn from a seed and grown node by node.

Either every number is a multiple of a power of two, so that floats compute exactly and a tie is
one for everybody, or scales have no common factors and ties are rare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.qonnx_graphs import DOMAINS, GraphMaker, runtime_outputs

SCALES = (0.313, 0.477, 0.529, 0.761, 0.917)
SHAPES = {
    "image": ((1, 2, 4, 3), (1, 1, 4, 4), (1, 3, 3, 2)),
    "line": ((1, 2, 6), (1, 3, 5)),
    "rows": ((1, 3, 4), (1, 2, 3)),
    "flat": ((1, 6), (1, 4)),
}
TINY = {"image": ((1, 2, 2, 2),), "line": ((1, 2, 3),), "rows": ((1, 2, 2),), "flat": ((1, 4),)}
OLDEST, NEWEST = 9, 17
Grow = Callable[["Drawn"], str | None]  # grows the graph; the tensor that is not yet quantized


@dataclass(frozen=True)
class Model:
    """`read` is the graph that ends where the program does; `exact`: floats compute exactly."""

    model: onnx.ModelProto
    read: onnx.ModelProto
    exact: bool
    seed: int
    operators: frozenset[str]


class Drawn(GraphMaker):
    """`x` is the last quantized tensor: multiples of `scale` up to `largest`, or of other scales.

    With `tiny`, sums stay within four bits and tensors within a dozen numbers.
    """

    def __init__(self, seed: int, family: str, *, tiny: bool = False, opset: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tiny, self.family = tiny, family
        self.exact = self.chance(0.5)
        self.domain = self.pick(DOMAINS)
        self.opset = opset or (OLDEST if self.chance(0.1) else self.pick((13, NEWEST)))
        super().__init__(self.pick((TINY if tiny else SHAPES)[family]))
        self.input = "x"
        self.scale: float | None = None
        self.x = self.enter()

    def pick(self, options: Any) -> Any:
        """One of them."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < p)

    def number(self, low: float, high: float) -> float:
        """A real number, or one of eighths."""
        x = self.rng.uniform(low, high)
        return float(np.rint(8 * x) / 8) if self.exact else float(x)

    def numbers(self, low: float, high: float, *shape: int) -> np.ndarray:
        """Several."""
        return np.array([self.number(low, high) for _ in range(int(np.prod(shape)))]).reshape(shape)

    def unit(self, about: float = 1.0) -> float:
        """A scale near a number."""
        if self.exact:
            return float(2.0 ** np.rint(np.log2(about)))
        return float(about * self.pick(SCALES) * 1.3)

    def values(self, tensor: str) -> np.ndarray:
        """Of a tensor of the graph so far, for a few inputs, (samples, *shape)."""
        rng = np.random.default_rng(0)
        model = self.model(tensor, opset=self.opset)
        return np.stack([runtime_outputs(model, self.sample(rng))[0] for _ in range(3)])

    def shape_of(self, tensor: str) -> tuple[int, ...]:
        """Of a tensor of the graph so far."""
        return self.values(tensor).shape[1:]

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of `x`."""
        return self.shape_of(self.x)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One input."""
        if self.kind == TensorProto.INT64:
            return rng.integers(0, 4, self.shape)
        if self.kind == TensorProto.BOOL:
            return rng.integers(0, 2, self.shape).astype(bool)
        x = rng.normal(0, 2, self.shape)
        return (np.rint(4 * x) / 4 if self.exact else x).astype(np.float32)

    def enter(self) -> str:
        """The input: of real numbers with a quantizer, of zeros and ones, or of tokens."""
        way = self.rng.random()
        if way < 0.08:
            self.kind, self.scale = TensorProto.BOOL, 1.0
            return self.op("Cast", "x", to=TensorProto.FLOAT)
        if way < 0.16 and self.family == "rows":
            self.kind, self.shape = TensorProto.INT64, self.shape[:2]
            table = self.const(self.numbers(-1, 1, 4, 3))
            return self.quantized(self.op("Gather", table, "x"), plain=True)
        return self.quantized("x", plain=not self.chance(0.3), about=1.0)

    def listed(self, op: str, x: str, since: int, values: dict[str, Any], **attributes: Any) -> str:
        """An operator whose `values` are operands since an opset, attributes before."""
        if self.opset < since:
            return self.op(op, x, **values, **attributes)
        return self.op(op, x, *(self.const(v, np.int64) for v in values.values()), **attributes)

    def quantized(self, x: str, *, plain: bool = False, about: float = 0.0) -> str:
        """The tensor behind a quantizer of any kind; `plain`: a `Quant` of one scale."""
        if not about:
            about = float(np.abs(self.values(x)).max()) or 1.0
        kind = "Quant" if plain else self.pick(
            ("Quant", "Quant", "IntQuant", "IntQuant", "BipolarQuant", "MultiThreshold", "linear")
        )  # fmt: skip
        if kind == "linear" and self.opset < 13:
            kind = "IntQuant"
        if kind == "MultiThreshold" and (x == "x" or len(self.shape_of(x)) == 1):
            kind = "IntQuant"
        return getattr(self, f"_{kind.lower()}")(x, about, plain)

    def _quant(self, x: str, about: float, plain: bool) -> str:
        bits = 2 if self.tiny else int(self.rng.integers(2, 5))
        signed = plain or self.chance(0.5)
        scale: Any = self.unit(about / 2 ** (bits - signed))
        zero, self.scale = 0.0, scale
        if not plain and self.chance(0.15):
            zero = 1.0
        if not plain and not self.tiny and x != "x" and self.chance(0.15):
            shape = self.shape_of(x)
            column = (1, -1, *(1 for _ in shape[2:]))
            if len(shape) > 1:
                ratios = self.pick(((1, 0.5), (1, 2, 1)))
                scale = scale * np.resize(ratios, shape[1]).reshape(column)
                self.scale = None
        rounding = "ROUND" if plain or not self.chance(0.2) else self.pick(
            ("CEIL", "FLOOR", "ROUND_TO_ZERO", "HALF_UP")
        )  # fmt: skip
        narrow = self.chance(0.2)
        kind = "Quant" if plain else self.pick(("Quant", "IntQuant"))
        if not plain and zero == 0.0 and np.ndim(scale) == 0 and self.chance(0.05):
            bits = 1  # signs
        more = {"signed": signed, "narrow": narrow and bits > 1, "rounding": rounding}
        return self.quant(x, scale, bits, zero=zero, kind=kind, domain=self.domain, **more)

    _intquant = _quant

    def _bipolarquant(self, x: str, about: float, plain: bool) -> str:
        self.scale = self.unit(about)
        return self.op("BipolarQuant", x, self.const(self.scale), domain=self.domain)

    def _multithreshold(self, x: str, about: float, plain: bool) -> str:
        shape = self.shape_of(x)
        channels = shape[1] if len(shape) in (2, 4) and self.chance(0.5) else 1
        levels = np.sort(self.numbers(-about, about, channels, 3), axis=1)
        self.scale = self.unit(about / 2)
        bias = self.pick((0.0, -self.scale, -2 * self.scale))
        attributes: dict[str, Any] = {"out_scale": self.scale, "out_bias": bias}
        if self.chance(0.3):
            attributes |= {"out_dtype": "UINT2"}
        levels_of = self.const(levels)
        return self.op("MultiThreshold", x, levels_of, domain=self.domain, **attributes)

    def _linear(self, x: str, about: float, plain: bool) -> str:
        """QuantizeLinear, mostly clipped to fewer bits, and DequantizeLinear."""
        scale = self.unit(about / 2)
        kind, low, high = self.pick(((np.int8, -2, 1), (np.uint8, 0, 3)))
        parts = self.const(scale), self.const(self.pick((0, 1)) if low == 0 else 0, kind)
        q = self.op("QuantizeLinear", x, *parts)
        q = self.op("Clip", q, self.const(low, kind), self.const(high, kind))
        self.scale = scale
        return self.op("DequantizeLinear", q, *parts)

    def weights(self, shape: tuple[int, ...], out: int) -> str:
        """Quantized in any way, of one scale or one for each place of the axis `out`."""
        fan = int(np.prod(shape)) // shape[out]
        ways = ("Quant", "Quant", "folded", "linear", *["signs"] * (fan <= 4 or not self.tiny))
        way = self.pick(ways)
        ints = self.rng.integers(-1, 2, (shape[out], fan))
        if self.tiny:
            for row in ints:
                row[self.rng.permutation(fan)[3:]] = 0
        elif self.chance(0.3):
            ints *= self.rng.integers(1, 4, ints.shape)
        ints[~ints.any(axis=1), 0] = 1
        rest = tuple(n for i, n in enumerate(shape) if i != out)
        ints = np.moveaxis(ints.reshape(shape[out], *rest), 0, out)
        place = tuple(n if i == out else 1 for i, n in enumerate(shape))
        scale = np.full(place if self.chance(0.3) else (), self.unit(0.5))
        if scale.ndim and not self.exact:
            scale = scale * self.rng.uniform(0.7, 1.3, scale.shape)
        match way:
            case "folded":
                return self.const(ints * scale)
            case "signs":
                return self.op(
                    "BipolarQuant", self.const(ints + 0.5), self.const(scale), domain=self.domain
                )
            case "linear" if scale.ndim == 0 and self.opset >= 13:
                parts = self.const(ints, np.int8), self.const(scale), self.const(0, np.int8)
                return self.op("DequantizeLinear", *parts)
        real = self.const(ints * scale)
        return self.quant(real, scale, 3, narrow=True, domain=self.domain)

    def drawn(self, seed: int, *outputs: str, ends: str = "") -> Model:
        """The model; with `ends`, an operator that is left to the client, of the last output."""
        model = self.model(*outputs, *([ends] if ends else []), opset=self.opset)
        read = self.model(*outputs, *([self.nodes[-1].input[0]] if ends else []), opset=self.opset)
        if ends:
            for value in model.graph.output:
                made = next(n for n in self.nodes if value.name in n.output)
                if made.op_type == "ArgMax":
                    value.type.tensor_type.elem_type = TensorProto.INT64
        operators = frozenset(node.op_type for node in self.nodes)
        return Model(model, read, self.exact, seed, operators)
