"""A QONNX graph under rewriting: nodes go in one by one, what each tensor then is comes out.

It reads the graph as `ingest` does, and runs it on samples at the same time. So whoever rewrites
knows of every tensor both what it is in terms of the program's integers, with their proved range,
and the numbers that it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from torusformer import InputError, LoweringError
from torusformer.fhe_compile.frontend.decompose.grids import Grid, best_grid
from torusformer.fhe_compile.frontend.decompose.reader import reader
from torusformer.fhe_compile.frontend.decompose.samples import Samples
from torusformer.fhe_compile.frontend.graphs import layer_of
from torusformer.fhe_compile.frontend.symbols import Affine, FloatArray, Symbol, uniform
from torusformer.fhe_compile.frontend.token_wise import Tokens
from torusformer.fhe_compile.program.onnx_gate import QUANT_DOMAINS

DOMAIN = QUANT_DOMAINS[1]
SUM_BITS = 16  # of a rounded sum: wide enough never to clip
BITS = range(3, 11)
NARROW, WIDE = 5, 8  # bits: what is read as it is, and the most that is read


@dataclass(frozen=True)
class Precision:
    """Bits at which what no quantizer holds is computed.

    `softmax_bits`: of attention scores and the logarithm of their sum of exponentials.
    `norm_bits`: of the table that ends a norm, and of squares. `stream_bits`: of a quantizer that
    is put where a sum, a product or a mean reads what has none: the residual stream.
    """

    softmax_bits: int = 7
    norm_bits: int = 7
    stream_bits: int = 6

    def __post_init__(self) -> None:
        for name, bits in vars(self).items():
            if bits not in BITS:
                raise InputError(f"{name} is {bits}, it is from {BITS[0]} to {BITS[-1]}")


@dataclass(frozen=True)
class Decomposed:
    """What stands in the place of one node: its name, of which kind, and at how many bits."""

    node: str
    kind: str
    bits: int


class Rewriter:
    """Nodes of the new graph in order, beside what a `reader` knows of them."""

    def __init__(
        self, graph: onnx.GraphProto, tokens: Tokens, samples: Samples, precision: Precision
    ) -> None:
        self.graph, self.samples, self.precision = graph, samples, precision
        self.reading = reader(graph, tokens)
        self.symbols, self.ranges = self.reading.symbols, self.reading.builder.ranges
        self.made: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.decomposed: list[Decomposed] = []
        self.source = onnx.NodeProto()  # in whose place nodes are put
        self._makers: dict[str, onnx.NodeProto] = {}
        self._put: dict[tuple[str, Grid], str] = {}

    def note(self, kind: str, bits: int) -> None:
        """Say that the node at hand is computed otherwise than it stands there."""
        self.decomposed.append(Decomposed(self.source.name or self.source.output[0], kind, bits))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a new constant."""
        name = f"{self.source.output[0]}.constant{len(self.constants)}"
        tensor = numpy_helper.from_array(np.asarray(value, dtype), name)
        self.constants.append(tensor)
        self.samples.constants[name] = numpy_helper.to_array(tensor)
        self.symbols[name] = self.reading.evaluate(
            "", helper.make_node("Constant", [], [name], value=tensor), []
        )[0]
        return name

    def emit(self, op: str, *inputs: str | float | np.ndarray, **attributes: Any) -> str:
        """The name of what a new node of ONNX makes; numbers among its operands are constants."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        out = f"{self.source.output[0]}.{op.lower()}{len(self.made)}"
        own = f"{self.source.name.rpartition('/')[0]}/{out.rpartition('/')[2]}"
        self.take(helper.make_node(op, names, [out], name=own, **attributes))
        return out

    def take(self, node: onnx.NodeProto) -> list[Symbol]:
        """Put a node at the end of the new graph as it is."""
        operands = [self.reading.argument(name) for name in node.input]
        found = self.reading.evaluate(layer_of(node), node, operands)
        self.samples.run(node)
        self.symbols.update(zip(node.output, found, strict=False))
        self.made.append(node)
        self._makers.update(dict.fromkeys(node.output, node))
        return found

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node of the new graph behind a tensor."""
        return self._makers.get(name)

    def bits(self, name: str) -> int:
        """Of the proved range of a tensor's integers, over all its elements; 0 if it has none."""
        symbol = self.symbols[name]
        if not isinstance(symbol, Affine):
            return 0
        return int(self.ranges[symbol.var].span_bits)

    def scale(self, name: str) -> float | None:
        """Of a tensor that is whole multiples of one number, an offset aside."""
        symbol = self.symbols[name]
        if not isinstance(symbol, Affine) or not uniform(
            symbol.scale, tuple(range(symbol.scale.ndim))
        ):
            return None
        return float(symbol.scale.flat[0])

    def is_code(self, name: str, bits: int) -> bool:
        """Whether it is a whole multiple of one scale, without an offset, of at most `bits`."""
        symbol, scale = self.symbols[name], self.scale(name)
        if scale is None or scale <= 0 or not isinstance(symbol, Affine):
            return False
        shift = symbol.offset / scale
        whole = bool((np.abs(shift - np.rint(shift)) < 1e-4).all())
        return whole and self.bits(name) <= bits

    def quant(self, name: str, scale: object, bits: int, *, signed: bool, zero: float = 0.0) -> str:
        """A `Quant` node."""
        return self.emit(
            "Quant",
            name,
            np.asarray(scale),
            zero,
            float(bits),
            domain=DOMAIN,
            signed=int(signed),
            narrow=0,
            rounding_mode="ROUND",
        )

    def reduce(self, op: str, name: str, axis: int = -1) -> str:
        """`ReduceSum` or `ReduceMean` along one axis, which stays with length 1."""
        by_input = self.samples.opset >= (13 if op == "ReduceSum" else 18)
        if by_input:
            return self.emit(op, name, self.constant([axis], np.int64), keepdims=1)
        return self.emit(op, name, axes=[axis], keepdims=1)

    def on_grid(self, name: str, grid: Grid) -> str:
        """A tensor quantized so; one that several read is quantized once."""
        if (name, grid) not in self._put:
            read = self.near(name, grid.scale)
            self._put[name, grid] = self.quant(read, grid.scale, grid.bits, signed=grid.signed)
        return self._put[name, grid]

    def coded(self, name: str, bits: int, why: str) -> str:
        """The tensor if it is a code of few bits, else a quantizer of `bits` bits of it, noted."""
        if self.is_code(name, bits + 1):
            return name
        self.note(why, bits)
        grid = best_grid(self.samples.of(name), bits, "what a quantizer was put after")
        return self.on_grid(name, grid)

    def near(self, name: str, step: float) -> str:
        """A sum as a quantizer of this step may read it: without bits below that.

        Offsets of channels become whole, so that one table does for all.
        """
        symbol = self.symbols[name]
        if not isinstance(symbol, Affine) or self.bits(name) <= NARROW:
            return name
        lsbs = int(np.floor(np.log2(step / float(np.abs(symbol.scale).max()))))
        lsbs = max(lsbs, self.bits(name) - WIDE)
        if lsbs < 1:
            return name
        # Exact rounding takes as many down as up but for the tie: half a unit less on average.
        return self.emit("Add", self.rounded(name, lsbs), float(symbol.scale.mean()) / 2)

    def rounded(self, name: str, lsbs: int) -> str:
        """A sum without its `lsbs` low bits, by exact rounding: no sum lies at a tie.

        What is not a sum, or runs downwards, comes back as it is.
        """
        symbol = self.symbols[name]
        if lsbs < 1 or not isinstance(symbol, Affine) or (symbol.scale <= 0).any():
            return name
        rest = symbol.offset / symbol.scale
        if not (np.abs(rest) < 2.0 ** (SUM_BITS - 2)).all():
            return name
        shift = (np.rint(rest) - 0.5 - rest) * symbol.scale
        moved = self.emit("Add", name, _smallest(shift))
        return self.quant(moved, _smallest(symbol.scale * 2.0**lsbs), SUM_BITS, signed=True)

    def graph_of(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The new graph, with all else of `model`."""
        found = onnx.ModelProto()
        found.CopyFrom(model)
        del found.graph.node[:]
        found.graph.node.extend(self.made)
        found.graph.initializer.extend(self.constants)
        if all(opset.domain != DOMAIN for opset in found.opset_import):
            found.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        return found


def _smallest(array: FloatArray) -> np.ndarray:
    """With length 1 along axes where nothing changes, as ONNX has constants."""
    for axis in range(array.ndim):
        first = np.take(array, [0], axis=axis)
        if np.allclose(array, first, rtol=1e-7, atol=0.0):
            array = first
    return np.asarray(array, np.float32)


def shape_of(symbol: Symbol | None) -> tuple[int, ...]:
    """Of an operand that has to be there."""
    if symbol is None:
        raise LoweringError("an operand is missing")
    return symbol.shape
