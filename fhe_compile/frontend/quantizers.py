"""What nodes that quantize say in, integers of an array out.

QONNX defines them (https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops):
q = clip(round(x / scale + zero_point), qmin, qmax), real = (q - zero_point) * scale for `Quant`, a
sign for `BipolarQuant` and for a signed `Quant` of one bit, a rounded division by a power of two
for `Trunc`, how many thresholds x reaches for `MultiThreshold`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.symbols import LARGEST, FloatArray, whole
from torusformer.fhe_compile.program.nodes import IntArray

MAX_QUANT_BITS = 32  # of weights and biases; float32 tells no more apart
MAX_THRESHOLDS = 2**10  # of a channel
SCALES = 1 / LARGEST, LARGEST

ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}


@dataclass(frozen=True, eq=False)
class Quantizer:
    """The constants of one `Quant` node; scale and zero point broadcast to the tensor.

    real = (q - zero_point) * scale, whatever q is found by.
    """

    scale: FloatArray
    zero_point: FloatArray
    qmin: int
    qmax: int
    rounding: str

    @property
    def parameters(self) -> tuple[np.ndarray, ...]:
        """What `integers` takes, each of which broadcasts to the tensor."""
        return self.scale, self.zero_point

    @property
    def plain(self) -> bool:
        """Whether whole numbers in range stay what they are: nothing but `Quant` does."""
        return type(self) is Quantizer

    def integers(self, x: np.ndarray, *parameters: np.ndarray) -> IntArray:
        """q for float32 x, with this quantizer's rounding and clipping."""
        scale, zero_point = parameters
        ratio = x.astype(np.float32) / scale.astype(np.float32) + zero_point.astype(np.float32)
        rounded = ROUNDING[self.rounding](ratio).astype(np.float64)  # float32 has no 2**31 - 1
        return np.clip(rounded, self.qmin, self.qmax).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Bipolar(Quantizer):
    """1 from 0 up, -1 below."""

    def integers(self, x: np.ndarray, *parameters: np.ndarray) -> IntArray:
        """The sign."""
        scale, zero_point = parameters
        ratio = x.astype(np.float32) / scale.astype(np.float32) + zero_point.astype(np.float32)
        return np.where(ratio >= 0, 1, -1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Truncation(Quantizer):
    """round(x / scale + zero point) / `divisor`, rounded again: fewer bits of the same number."""

    fine_scale: FloatArray
    fine_zero: FloatArray
    divisor: FloatArray

    @property
    def parameters(self) -> tuple[np.ndarray, ...]:
        """Of the number that is divided, and by what."""
        return self.fine_scale, self.fine_zero, self.divisor

    def integers(self, x: np.ndarray, *parameters: np.ndarray) -> IntArray:
        """The quotient."""
        scale, zero, divisor = parameters
        fine = np.rint(x.astype(np.float32) / scale.astype(np.float32) + zero.astype(np.float32))
        q = ROUNDING[self.rounding](fine.astype(np.float64) / divisor)
        return np.clip(q, self.qmin, self.qmax).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Thresholds(Quantizer):
    """How many of `levels` x reaches; each level broadcasts to the tensor."""

    levels: tuple[FloatArray, ...]

    @property
    def parameters(self) -> tuple[np.ndarray, ...]:
        """The levels."""
        return self.levels

    def integers(self, x: np.ndarray, *parameters: np.ndarray) -> IntArray:
        """The count."""
        steps = (x.astype(np.float32) >= level.astype(np.float32) for level in parameters)
        return sum((step.astype(np.int64) for step in steps), np.zeros((1,) * x.ndim, np.int64))


def _few(found: set[float]) -> list[float]:
    return sorted(found)[:4]


def _bits(bit_width: np.ndarray) -> int:
    found = {float(bits) for bits in np.asarray(bit_width).flat}
    if len(found) != 1 or not found <= set(range(1, MAX_QUANT_BITS + 1)):
        raise LoweringError(
            f"bit width {_few(found)} is not one whole number from 1 to {MAX_QUANT_BITS}"
        )
    return int(found.pop())


def _scale(scale: np.ndarray) -> FloatArray:
    if not np.size(scale) or not np.all((scale >= SCALES[0]) & (scale <= SCALES[1])):
        raise LoweringError(
            f"its scale is not positive, from {SCALES[0]} to {SCALES[1]}; calibrate the quantizer "
            "before exporting"
        )
    return np.asarray(scale, np.float64)


def _zero_point(zero_point: np.ndarray) -> FloatArray:
    if not np.size(zero_point) or not np.all(np.abs(zero_point) < 2.0**MAX_QUANT_BITS):
        raise LoweringError(
            f"its zero point is no number below 2^{MAX_QUANT_BITS}; calibrate the quantizer before "
            "exporting"
        )
    return np.asarray(zero_point, np.float64)


def _rounding(rounding: str) -> str:
    if rounding.upper() not in ROUNDING:
        raise LoweringError(
            f"rounding mode '{rounding}' is unknown; use one of {', '.join(ROUNDING)}"
        )
    return rounding.upper()


def _limits(bits: int, *, signed: bool, narrow: bool) -> tuple[int, int]:
    if signed:
        return -(2 ** (bits - 1)) + int(narrow), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - int(narrow)


def quantizer(
    scale: np.ndarray,
    zero_point: np.ndarray,
    bit_width: np.ndarray,
    *,
    signed: bool,
    narrow: bool,
    rounding: str,
) -> Quantizer:
    """The quantizer of a `Quant` node.

    Raises:
        LoweringError: a scale that is not positive, a fractional or varying bit width, or an
            unknown rounding mode.
    """
    bits = _bits(bit_width)
    parts = _scale(scale), _zero_point(zero_point)
    mode = _rounding(rounding)
    if bits == 1 and signed:  # as QONNX's executor does
        return Bipolar(*parts, -1, 1, mode)
    return Quantizer(*parts, *_limits(bits, signed=signed, narrow=narrow), mode)


def bipolar(scale: np.ndarray) -> Quantizer:
    """The quantizer of a `BipolarQuant` node."""
    return Bipolar(_scale(scale), np.zeros(()), -1, 1, "ROUND")


def truncation(
    scale: np.ndarray,
    zero_point: np.ndarray,
    bits: np.ndarray,
    *rest: np.ndarray,
    signed: bool,
    narrow: bool,
    rounding: str,
) -> Quantizer:
    """The quantizer of a `Trunc` node: `rest` is the bit width that is left, or scale and width.

    The older form keeps scale and zero point of what it divides, and clips nothing.
    """
    fine, zero, mode = _scale(scale), _zero_point(zero_point), _rounding(rounding)
    wide, narrower = _bits(bits), _bits(rest[-1])
    if len(rest) == 1:
        divisor = np.asarray(2.0 ** (wide - narrower))
        limit = 2**MAX_QUANT_BITS
        return Truncation(fine, zero, -limit, limit, mode, fine, zero, divisor)
    coarse = _scale(rest[0])
    divisor = 2.0 ** np.rint(np.log2(coarse / fine))
    limits = _limits(narrower, signed=signed, narrow=narrow)
    return Truncation(coarse, zero / divisor, *limits, mode, fine, zero, divisor)


def thresholds(
    levels: np.ndarray, shape: tuple[int, ...], layout: str, scale: float, bias: float
) -> Quantizer:
    """The quantizer of a `MultiThreshold` node on a tensor: levels (channels or 1, T).

    Channels are the axis that `layout` names C, by default FINN's guess from the rank.
    """
    layout = layout or {2: "NC", 3: "NWC", 4: "NCHW"}.get(len(shape), "NC")
    axis = layout.index("C") if "C" in layout else 1
    if (
        levels.ndim != 2
        or levels.shape[0] not in (1, shape[axis])
        or levels.shape[1] > MAX_THRESHOLDS
    ):
        raise LoweringError(
            f"thresholds of shape {levels.shape} for the {shape[axis]} channels of axis {axis}"
        )
    if scale == 0 or not np.isfinite([scale, bias]).all():
        raise LoweringError("its out_scale is 0 or no number; mend the graph")
    place = tuple(-1 if i == axis else 1 for i in range(len(shape)))
    steps = tuple(column.astype(np.float64).reshape(place) for column in levels.T)
    zero = np.asarray(-bias / scale, np.float64)
    return Thresholds(np.asarray(scale, np.float64), zero, 0, len(steps), "ROUND", steps)


def shifted(scale: np.ndarray, zero_point: np.ndarray, lo: int, hi: int) -> Quantizer:
    """The quantizer of `QuantizeLinear`, which adds its zero point after it rounded.

    Its integers are those of the node less the zero point.
    """
    zero = _zero_point(zero_point)
    if zero.size and (zero != zero.flat[0]).any():
        raise LoweringError("it has zero points that differ among channels; use one")
    z = int(whole(np.rint(zero)).flat[0])
    return Quantizer(_scale(scale), np.zeros(()), lo - z, hi - z, "ROUND")


def quantizer_of(
    op: str, shape: tuple[int, ...], parts: Sequence[np.ndarray], attr: dict[str, Any]
) -> Quantizer:
    """The quantizer of a node of a QONNX domain on a tensor of that shape; `parts` are constants.

    Raises:
        LoweringError: it is none, or its constants make no quantizer.
    """
    signed, narrow = bool(attr.get("signed", 1)), bool(attr.get("narrow", 0))

    def text(name: str, default: str) -> str:
        found = attr.get(name, default)
        return found.decode() if isinstance(found, bytes) else str(found)

    match op:
        case "Quant" | "IntQuant":
            mode = text("rounding_mode", "ROUND")
            return quantizer(*parts, signed=signed, narrow=narrow, rounding=mode)
        case "BipolarQuant":
            return bipolar(*parts)
        case "Trunc":
            mode = text("rounding_mode", "FLOOR")
            return truncation(*parts, signed=signed, narrow=narrow, rounding=mode)
        case "MultiThreshold":
            scale, bias = float(attr.get("out_scale", 1.0)), float(attr.get("out_bias", 0.0))
            return thresholds(parts[0], shape, text("data_layout", ""), scale, bias)
    raise LoweringError(f"operator {op} of QONNX is not supported; export with QONNX Quant")
