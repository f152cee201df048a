"""A QONNX graph with float functions between quantizers in, one of quantizers and tables out.

What `lower` alone refuses is put otherwise, at a chosen number of bits, on grids that sample inputs
decide: softmax, norms, sums of two grids, functions of more than two tensors, and whatever sums or
multiplies what no quantizer holds. All of it is named (`Decomposed`). What `lower` reads as it is
stays untouched, so a graph of such operators alone comes out as it went in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from torusformer import LoweringError, TorusformerError
from torusformer.fhe_compile.frontend.decompose.composites import NORMALISE, with_composites
from torusformer.fhe_compile.frontend.decompose.grids import Grid, best_grid, grid_with
from torusformer.fhe_compile.frontend.decompose.norms import normalise
from torusformer.fhe_compile.frontend.decompose.rewriter import Decomposed, Precision, Rewriter
from torusformer.fhe_compile.frontend.decompose.samples import Samples, opset_of
from torusformer.fhe_compile.frontend.decompose.softmax import softmax
from torusformer.fhe_compile.frontend.elementwise import ELEMENTWISE
from torusformer.fhe_compile.frontend.graphs import layer_of
from torusformer.fhe_compile.frontend.quant import MAX_PACKED_BITS
from torusformer.fhe_compile.frontend.symbols import Affine, Clear, Pending, Symbol
from torusformer.fhe_compile.frontend.token_wise import Tokens

_LAST = frozenset(("Softmax", "LogSoftmax"))
_SUMS = frozenset(("ReduceMean", "ReduceSum"))
_PRODUCTS = frozenset(("MatMul", "Gemm"))
_MOST_RATIO = 16  # of two scales that are brought together


class _Decomposer(Rewriter):
    """Each node of the graph as it comes: put as it is, with quantizers before it, or otherwise."""

    outputs: frozenset[str] = frozenset()

    def decompose(self) -> None:
        """Walk the whole graph."""
        self.outputs = frozenset(value.name for value in self.graph.output)
        for node in self.graph.node:
            layer = layer_of(node)
            self.source = node
            try:
                self._place(node)
            except LoweringError as error:
                message = str(error)
                where = f"{layer} ({node.op_type})"
                raise LoweringError(
                    message if message.startswith(layer) else f"{where}: {message}"
                ) from None
            except TorusformerError:
                raise
            except (ValueError, IndexError, KeyError, OverflowError, ZeroDivisionError) as error:
                raise LoweringError(
                    f"{layer} ({node.op_type}): shapes do not fit ({error})"
                ) from None

    def _place(self, node: onnx.NodeProto) -> None:
        for name in node.input:
            self.reading.argument(name)
        attr = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        encrypted = [n for n in node.input if isinstance(self.symbols.get(n), Affine | Pending)]
        if node.op_type in _LAST and self.outputs.intersection(node.output):
            self.made.append(node)  # which class wins does not depend on it: `ingest` decides
            return
        result = self._otherwise(node, attr) if encrypted else None
        if result is not None:
            self._named(result, node.output[0])
        elif encrypted and node.op_type in _PRODUCTS | _SUMS:
            self._take(node, {n: self._readable(node, i) for i, n in enumerate(node.input)})
        elif len(set(encrypted)) > 1 and node.op_type in ("Add", "Sub"):
            self._take(node, self._summands(node))
        elif len(set(encrypted)) > 1 and node.op_type in ELEMENTWISE:
            self._take(node, self._packable(node, list(dict.fromkeys(encrypted))))
        else:
            self._take(node, {})

    def _otherwise(self, node: onnx.NodeProto, attr: Mapping[str, Any]) -> str | None:
        """The name of what stands in the place of a softmax or a norm."""
        x = node.input[0]
        rank = len(self.symbols[x].shape)
        match node.op_type:
            case "Softmax" | "LogSoftmax":
                axis = int(attr.get("axis", -1 if self.samples.opset >= 13 else 1)) % rank
                return softmax(self, x, axis, logarithm=node.op_type == "LogSoftmax")
            case "LayerNormalization":
                if int(attr.get("axis", -1)) % rank != rank - 1 or any(node.output[1:]):
                    raise LoweringError("a layer norm over more than the last axis; reshape first")
                found = normalise(self, x, float(attr.get("epsilon", 1e-5)), centred=True)
                for op, name in zip(("Mul", "Add"), node.input[1:], strict=False):
                    found = self.emit(op, found, name) if name else found
                return found
            case op if op == NORMALISE:
                return normalise(self, x, float(attr["epsilon"]), centred=bool(attr["centred"]))
        return None

    def _named(self, made: str, name: str) -> None:
        """Give the last node's result the name that the graph's readers know."""
        if name in self.outputs and not isinstance(self.symbols[made], Affine):
            made = self._quantized_output(made)
        self.take(helper.make_node("Identity", [made], [name], name=f"{self.source.name}/Identity"))

    def _quantized_output(self, name: str) -> str:
        return self.coded(name, self.precision.stream_bits, "quantizer at the output")

    def _take(self, node: onnx.NodeProto, instead: Mapping[str, str]) -> None:
        """Put the node itself, with some of its operands replaced."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [instead.get(name, name) for name in node.input]
        if not self.outputs.intersection(node.output):
            self.take(copy)
            return
        copy.output[0] = f"{node.output[0]}.float"
        self.take(copy)
        self._named(copy.output[0], node.output[0])

    def _readable(self, node: onnx.NodeProto, place: int) -> str:
        """An operand of a product or sum, quantized where that needs it."""
        name, bits = node.input[place], self.precision.stream_bits
        symbol = self.symbols.get(name)
        if isinstance(symbol, Clear) or symbol is None:
            return name
        others = [self.symbols.get(n) for i, n in enumerate(node.input[:2]) if i != place]
        both = any(isinstance(other, Affine | Pending) for other in others)
        enough = self.scale(name) is not None if not both else self.is_code(name, bits + 1)
        if node.op_type in _PRODUCTS and place > 1:
            return name
        if isinstance(symbol, Affine) and enough:
            return name
        if not isinstance(symbol, Affine | Pending):
            return name
        return self.coded(name, bits, f"quantizer before {node.op_type}")

    def _summands(self, node: onnx.NodeProto) -> dict[str, str]:
        """Operands of a sum of two, on one grid."""
        first, second = node.input
        symbols = [self.symbols[name] for name in (first, second)]
        if _packed_bits(self, symbols) <= MAX_PACKED_BITS or self._meet(first, second):
            return {}
        bits = self.precision.stream_bits
        a, b = (self.samples.of(name) for name in (first, second))
        total = a - b if node.op_type == "Sub" else a + b
        wanted = best_grid(total, bits, "a sum").scale
        codes = [name for name in (first, second) if self.is_code(name, bits + 1)]
        scale = wanted
        if codes:
            # On the grid of a code that is there, or a whole part of it.
            given = min(self.scale(name) or wanted for name in codes)
            parts = [n for n in range(1, _MOST_RATIO + 1) if given / n <= 1.1 * wanted]
            if parts:
                scale = given / parts[0]
        self.note("sum on one grid", bits)
        found = {}
        for name, x in ((first, a), (second, b)):
            own = self.scale(name)
            if name in codes and own is not None and abs(own / scale - round(own / scale)) < 1e-6:
                continue
            grid = grid_with(x, scale, "a summand")
            found[name] = self.on_grid(name, Grid(scale, grid.bits, grid.signed))
        return found

    def _meet(self, first: str, second: str) -> bool:
        """Whether the sum is one of integers as it is."""
        scales = [self.scale(name) for name in (first, second)]
        if None in scales:
            return False
        low, high = sorted(abs(s) for s in scales if s is not None)
        ratio = high / low
        return ratio <= _MOST_RATIO and abs(ratio - round(ratio)) < 1e-6 * ratio

    def _packable(self, node: onnx.NodeProto, names: list[str]) -> dict[str, str]:
        """Operands of a function of several, narrow enough for one table of two."""
        symbols = [self.symbols[name] for name in names]
        if _packed_bits(self, symbols) <= MAX_PACKED_BITS:
            return {}
        whole = node.op_type == "Mul" and all(self.is_code(n, NARROW_FACTOR) for n in names)
        if whole and len(names) == 2:
            return {}
        if len(names) > 2:
            raise LoweringError("a function of more than two encrypted tensors; split it")
        bits = MAX_PACKED_BITS // 2
        why = f"quantizer before {node.op_type}"
        return {name: self.coded(name, bits - 1, why) for name in names}


NARROW_FACTOR = 6  # bits of a factor of a product of two encrypted numbers


def _packed_bits(graph: Rewriter, symbols: list[Symbol]) -> int:
    """Of a table over all the values that these read; more than any limit where they are many."""
    roots: dict[str, None] = {}
    for symbol in symbols:
        if isinstance(symbol, Affine):
            roots[symbol.var] = None
        elif isinstance(symbol, Pending):
            roots.update(dict.fromkeys(symbol.roots()))
    if len(roots) == 1:
        return 0
    if len(roots) > 2:
        return MAX_PACKED_BITS + 1
    return sum(max(1, int(graph.ranges[root].span_bits)) for root in roots)


def decompose(
    model: onnx.ModelProto, samples: Mapping[str, np.ndarray], tokens: Tokens, precision: Precision
) -> tuple[onnx.ModelProto, tuple[Decomposed, ...]]:
    """The same model without float functions that `ingest` refuses, and what was put otherwise.

    Args:
        model: a QONNX graph, batch size 1.
        samples: by graph input, as `sample_inputs` gives them: they decide the grids.
        tokens: how token ids enter.
        precision: bits.

    Raises:
        LoweringError: an operator that is neither known nor decomposed.
    """
    one = Samples(model.graph, {name: rows[:1] for name, rows in samples.items()}, opset_of(model))
    for node in model.graph.node:
        one.run(node)
    found = with_composites(model, {name: row.ndim - 1 for name, row in one.values.items()})
    run = Samples(found.graph, samples, opset_of(model))
    walk = _Decomposer(found.graph, tokens, run, precision)
    with np.errstate(all="ignore"):
        walk.decompose()
    return walk.graph_of(found), tuple(walk.decomposed)
