"""QONNX graph in, integer program out.

Walks the graph once and keeps, for every float tensor, what it is in terms of the program's
integers (`symbols`). Linear work becomes integer nodes at once; element-wise work waits until a
`Quant` node closes it and then becomes one table; whatever cannot be expressed is named with its
layer and the cure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from torusformer import LoweringError, TorusformerError
from torusformer.fhe_compile.frontend.arithmetic import batch_norm, binary, matmul, reduce
from torusformer.fhe_compile.frontend.elementwise import ELEMENTWISE, apply
from torusformer.fhe_compile.frontend.graphs import constant_of, layer_of, static_shape
from torusformer.fhe_compile.frontend.layout import apply_move, concat, layout_moves, transpose_by
from torusformer.fhe_compile.frontend.quant import quantize, quantizer
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Clear,
    Pending,
    Symbol,
    TokenWise,
    Unquantized,
    squeezed,
)
from torusformer.fhe_compile.frontend.token_ports import as_integers, join_tables
from torusformer.fhe_compile.frontend.token_wise import Tokens, compute, token_input
from torusformer.fhe_compile.program.nodes import Node, Port, Program, Reshape
from torusformer.fhe_compile.program.onnx_gate import QUANT_DOMAINS

_PASS_THROUGH = frozenset({"Identity", "Dropout"})
_CURES = {
    "Softmax": "give samples, lower --calibrate samples.npz, and it becomes tables; "
    "or write it as quantized exp, sum and log",
    "LogSoftmax": "leave it out: it does not change which class wins",
    "LayerNormalization": "give samples, lower --calibrate samples.npz, and it becomes tables; "
    "or write it as quantized mean, square and rsqrt",
    "Conv": "unfold the patches with Reshape and Transpose, and use a linear layer",
    "ReduceMax": "use ReduceSum or ReduceMean",
    "ArgMax": "leave it to the client: it reads the logits",
    "MaxPool": "use ReduceMean",
    "Trunc": "use a Quant node whose scale is a power of two times the accumulator's",
}


class _Ingest:
    """One walk over one graph."""

    def __init__(self, graph: onnx.GraphProto, tokens: Tokens) -> None:
        self.graph = graph
        self.builder = Builder()
        self.values: dict[int, tuple[Symbol, Symbol]] = {}  # by id, kept alive beside it
        self.symbols: dict[str, Symbol] = {
            t.name: Clear(numpy_helper.to_array(t)) for t in graph.initializer
        }
        for value in graph.input:
            if value.name not in self.symbols:
                real = Unquantized(value.name, static_shape(value))
                self.symbols[value.name] = token_input(graph, value, tokens) or real

    def run(self, metadata: Mapping[str, str]) -> Program:
        for proto in self.graph.node:
            layer = layer_of(proto)
            try:
                results = self.evaluate(layer, proto, [self.argument(i) for i in proto.input])
            except LoweringError as error:
                message = str(error)
                where = f"{layer} ({proto.op_type})"
                raise LoweringError(
                    message if message.startswith(layer) else f"{where}: {message}"
                ) from None
            except TorusformerError:
                raise
            except (ValueError, IndexError, KeyError, OverflowError, ZeroDivisionError) as error:
                raise LoweringError(
                    f"{layer} ({proto.op_type}): shapes do not fit ({error})"
                ) from None
            self.symbols.update(zip(proto.output, results, strict=False))
        outputs: dict[str, Port] = {}
        for value in self.graph.output:
            self.output(value.name, outputs)
        names = join_tables(self.builder) | {var: port.name for var, port in outputs.items()}
        nodes = tuple(_renamed(node, names) for node in self.builder.nodes)
        if not self.builder.inputs:
            raise LoweringError(
                "no quantizer reads the graph input; start the model with a QuantIdentity"
            )
        return Program(tuple(self.builder.inputs), tuple(outputs.values()), nodes, metadata)

    def argument(self, name: str) -> Symbol | None:
        if not name:
            return None
        if name not in self.symbols:
            raise LoweringError(f"reads '{name}', which nothing makes; the graph is not sorted")
        return self.symbols[name]

    def integers(self, layer: str, symbol: Symbol | None) -> Symbol | None:
        """What depends on tokens alone as a value of the program, like any other."""
        if not isinstance(symbol, TokenWise):
            return symbol
        if id(symbol) not in self.values:
            if symbol.entries.ints is not None:
                found: Symbol = as_integers(self.builder, layer, symbol)
            elif symbol.otherwise is not None:
                found = symbol.otherwise()
            else:
                raise LoweringError(
                    f"what depends on tokens of '{symbol.source.name}' alone meets other values "
                    "in floating point; add a QuantIdentity before that"
                )
            self.values[id(symbol)] = symbol, found
        return self.values[id(symbol)][1]

    def token_wise(
        self, layer: str, proto: onnx.NodeProto, args: list[Symbol | None], attr: dict[str, Any]
    ) -> list[Symbol]:
        """An operator with an operand that depends on tokens alone; so may its result."""

        def otherwise() -> Symbol:
            operands = [self.integers(layer, arg) for arg in args]
            return self.evaluate(layer, proto, operands)[0]

        found = compute(proto, args, attr)
        return [otherwise() if found is None else dataclasses.replace(found, otherwise=otherwise)]

    def evaluate(
        self, layer: str, proto: onnx.NodeProto, args: list[Symbol | None]
    ) -> list[Symbol]:
        """The results of one operator on these symbols."""
        op = proto.op_type
        attr = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        if op in ("Quant", "IntQuant") and proto.domain in QUANT_DOMAINS:
            return [self.quant(layer, args, attr)]
        if proto.domain not in ("", "ai.onnx"):
            raise LoweringError(f"operator {proto.domain}.{op} is unknown; export with QONNX Quant")
        if op == "Constant":
            return [Clear(constant_of(attr))]
        if op == "Shape" and args[0] is not None:
            return [Clear(np.array(args[0].shape, np.int64))]
        if op in _PASS_THROUGH or (op == "Cast" and not isinstance(args[0], Clear | TokenWise)):
            return [args[0]]  # type: ignore[list-item]
        if op == "Gather" and isinstance(args[1], TokenWise):
            return self.token_wise(layer, proto, args, attr)
        if op == "Gather" and not isinstance(args[1], Clear):
            return [self.lookup(proto, args)]
        moves = layout_moves(layer, op, args, attr, len(proto.output))
        if moves is not None and args[0] is not None:
            return [apply_move(self.builder, layer, args[0], move) for move in moves]
        if any(isinstance(a, TokenWise) for a in args):
            return self.token_wise(layer, proto, args, attr)
        if all(a is None or isinstance(a, Clear) for a in args):
            plain = [a.value if isinstance(a, Clear) else None for a in args]
            return [Clear(apply(proto, plain))]
        return [self.compute(layer, proto, args, attr)]

    def compute(
        self, layer: str, proto: onnx.NodeProto, args: list[Symbol | None], attr: dict[str, Any]
    ) -> Symbol:
        """An arithmetic operator with at least one operand that is not constant."""
        op = proto.op_type
        given = [a for a in args if a is not None]
        match op:
            case "MatMul":
                return matmul(self.builder, layer, given[0], given[1])
            case "Gemm":
                return self.gemm(layer, given, attr)
            case "Add" | "Sub" | "Mul" | "Div":
                return binary(self.builder, layer, proto, given[0], given[1])
            case "Neg" if isinstance(given[0], Affine):
                return Affine(given[0].var, -given[0].scale, -given[0].offset)
            case "ReduceSum" | "ReduceMean":
                axes = tuple(attr.get("axes", ()))
                if len(given) > 1 and isinstance(given[1], Clear):
                    axes = tuple(int(v) for v in np.atleast_1d(given[1].value))
                keep = bool(attr.get("keepdims", 1))
                return reduce(self.builder, layer, op, given[0], axes, keep)
            case "BatchNormalization":
                return batch_norm(self.builder, layer, args, attr)
            case "Concat":
                return concat(self.builder, layer, given, int(attr["axis"]))
        if op not in ELEMENTWISE:
            cure = _CURES.get(op, "express it with products, sums and element-wise functions")
            raise LoweringError(f"operator {op} is not supported; {cure}")
        if any(isinstance(a, Unquantized) for a in given):
            raise LoweringError(
                "reads the graph input before any quantizer; start the model with a QuantIdentity"
            )
        return Pending(proto, tuple(args), np.broadcast_shapes(*(a.shape for a in given)))

    def lookup(self, proto: onnx.NodeProto, args: list[Symbol | None]) -> Symbol:
        """Entries of a clear vector at encrypted places: an element-wise function of these."""
        entries, where = args
        if not isinstance(entries, Clear) or entries.value.ndim != 1:
            raise LoweringError(
                "Gather by encrypted indices from what is not a constant vector; "
                "feed one-hot rows to a linear layer instead"
            )
        if not isinstance(where, Affine | Pending):
            raise LoweringError("Gather by what no quantizer reads; add a QuantIdentity before it")
        return Pending(proto, (where,), where.shape, entries.value.astype(np.float32))

    def gemm(self, layer: str, args: list[Symbol], attr: dict[str, Any]) -> Symbol:
        if attr.get("transA", 0) or attr.get("alpha", 1.0) != 1.0 or attr.get("beta", 1.0) != 1.0:
            raise LoweringError("Gemm with transA, alpha or beta; export a plain linear layer")
        weight = args[1]
        if attr.get("transB", 0):
            weight = apply_move(self.builder, layer, weight, transpose_by(layer, (1, 0)))
        product = matmul(self.builder, layer, args[0], weight)
        if len(args) < 3:
            return product
        add = helper.make_node("Add", ["x", "y"], ["z"])
        return binary(self.builder, layer, add, product, args[2])

    def quant(self, layer: str, args: list[Symbol | None], attr: dict[str, Any]) -> Symbol:
        x, *parts = args
        if x is None or not all(isinstance(p, Clear) for p in parts) or len(parts) != 3:
            raise LoweringError("its scale, zero point and bit width must be constants")
        scale, zero_point, bit_width = (p.value for p in parts if isinstance(p, Clear))
        rounding = attr.get("rounding_mode", b"ROUND")
        q = quantizer(
            scale,
            zero_point,
            bit_width,
            signed=bool(attr.get("signed", 1)),
            narrow=bool(attr.get("narrow", 0)),
            rounding=rounding.decode() if isinstance(rounding, bytes) else rounding,
        )
        return quantize(self.builder, layer, x, q)

    def output(self, name: str, found: dict[str, Port]) -> None:
        """Add the port of a graph output to `found`, under the value that makes it."""
        symbol = self.integers("output", self.argument(name))
        if not isinstance(symbol, Affine):
            kind = (
                f"a float tensor (after {symbol.proto.op_type})"
                if isinstance(symbol, Pending)
                else "not computed from the quantized input"
            )
            raise LoweringError(
                f"graph output '{name}' is {kind}; "
                "end the model in a linear layer or a QuantIdentity"
            )
        var = symbol.var
        if var in found or any(port.name == var for port in self.builder.inputs):
            # It has a name already: a value of its own can bear the output's.
            var = self.builder.emit(Reshape, "output", (var,), shape=symbol.shape)
        reach = self.builder.ranges[var]
        found[var] = Port(
            name,
            symbol.shape,
            int(reach.lo.min()),
            int(reach.hi.max()),
            squeezed(symbol.scale),
            squeezed(-symbol.offset / symbol.scale),
        )


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    return dataclasses.replace(
        node,
        name=names.get(node.name, node.name),
        inputs=tuple(names.get(i, i) for i in node.inputs),
    )


def ingest(
    model: onnx.ModelProto,
    metadata: Mapping[str, str] | None = None,
    tokens: Tokens = "one-hot",
) -> Program:
    """The integer program of a QONNX model, before any pass.

    Args:
        model: a graph with `Quant` nodes, as Brevitas or QONNX write it. Batch size 1.
        metadata: strings to keep with the program (task, labels).
        tokens: whether token inputs are one-hot rows or rows of a public table.

    Raises:
        LoweringError: an unknown operator, an unquantized tensor, scales that do not meet.
        BitWidthError: a table input over 16 bits.
    """
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused where it is used
            return _Ingest(model.graph, tokens).run(dict(metadata or {}))
    except RecursionError:
        raise LoweringError(
            "the graph nests too many operations; add a QuantIdentity between them"
        ) from None
