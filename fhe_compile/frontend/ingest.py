"""QONNX graph in, integer program out.

Walks the graph once and keeps, for every float tensor, what it is in terms of the program's
integers (`symbols`). Linear work becomes integer nodes at once; element-wise work waits until a
`Quant` node closes it and then becomes one table; whatever cannot be expressed is named with its
layer and the cure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from torusformer import InputError, LoweringError, TorusformerError
from torusformer.fhe_compile.frontend.arithmetic import binary
from torusformer.fhe_compile.frontend.combine import combine
from torusformer.fhe_compile.frontend.elementwise import ELEMENTWISE, apply
from torusformer.fhe_compile.frontend.endings import LEFT_TO_CLIENT, ending_of
from torusformer.fhe_compile.frontend.forms import (
    dequantize_linear,
    grows,
    keeps_all,
    modern,
    quantize_linear,
    tokens_linear,
    whole_numbers,
)
from torusformer.fhe_compile.frontend.graphs import (
    clip_bounds,
    constant_of,
    layer_of,
    static_shape,
)
from torusformer.fhe_compile.frontend.inputs import (
    InputFormat,
    InputNotQuantizedError,
    InputOptions,
    clip_input,
    not_quantized,
)
from torusformer.fhe_compile.frontend.layout import apply_move, layout_moves
from torusformer.fhe_compile.frontend.pooling import at_once
from torusformer.fhe_compile.frontend.quant import quantize
from torusformer.fhe_compile.frontend.quantizers import quantizer_of
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Clear,
    Pending,
    Pooled,
    Symbol,
    TokenWise,
    Unquantized,
    squeezed,
)
from torusformer.fhe_compile.frontend.token_ports import as_integers, join_tables
from torusformer.fhe_compile.frontend.token_wise import Tokens, compute, token_input
from torusformer.fhe_compile.program.nodes import Node, Port, Program, Reshape
from torusformer.fhe_compile.program.onnx_gate import QUANT_DOMAINS, unknown_operator

_PASS_THROUGH = frozenset({"Identity", "Dropout"})
_CURES = {
    "Softmax": "give samples, lower --calibrate samples.npz, and it becomes tables; "
    "or write it as quantized exp, sum and log",
    "LayerNormalization": "give samples, lower --calibrate samples.npz, and it becomes tables; "
    "or write it as quantized mean, square and rsqrt",
    "ArgMax": "leave it to the client: it reads the logits",
}


UNKNOWN_CURE = "export with operators of ONNX and QONNX's quantizers"


class Ingest:
    """One walk over one graph; `examine` walks on where this stops."""

    def __init__(
        self, graph: onnx.GraphProto, tokens: Tokens, formats: Mapping[str, InputFormat]
    ) -> None:
        self.graph, self.formats = graph, formats
        self.ending = ending_of(graph)
        self.builder = Builder()
        self.values: dict[int, tuple[Symbol, Symbol]] = {}  # by id, kept alive beside it
        self.symbols: dict[str, Symbol] = {
            t.name: Clear(numpy_helper.to_array(t)) for t in graph.initializer
        }
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for proto in self.ending.nodes:
            for name in proto.input:
                self.readers.setdefault(name, []).append(proto)
        for value in graph.input:
            name = value.name
            if name not in self.symbols and (name in self.readers or name in self.outputs):
                self.symbols[name] = self.enter(value, tokens)

    @property
    def outputs(self) -> Collection[str]:
        """The tensors that the program ends in."""
        return self.ending.tensor.values()

    def enter(self, value: onnx.ValueInfoProto, tokens: Tokens) -> Symbol:
        """What a graph input is."""
        name, shape = value.name, static_shape(value)
        if name in self.formats:
            return self.formats[name].enter(self.builder, name, shape)
        return token_input(self.graph, value, tokens) or Unquantized(name, shape)

    def step(self, proto: onnx.NodeProto) -> list[Symbol]:
        """The results of one node; what refuses it is named with its layer."""
        layer = layer_of(proto)
        try:
            return self.evaluate(layer, proto, [self.argument(i) for i in proto.input])
        except LoweringError as error:
            message = str(error)
            where = f"{layer} ({proto.op_type})"
            raise type(error)(
                message if message.startswith(layer) else f"{where}: {message}"
            ) from None
        except TorusformerError:
            raise
        except (ValueError, IndexError, KeyError, OverflowError, ZeroDivisionError) as error:
            raise LoweringError(f"{layer} ({proto.op_type}): shapes do not fit ({error})") from None

    def run(self, metadata: Mapping[str, str]) -> Program:
        """All of it."""
        for proto in self.ending.nodes:
            self.symbols.update(zip(proto.output, self.step(proto), strict=False))
        outputs: dict[str, Port] = {}
        for value in self.graph.output:
            self.output(value.name, outputs)
        if self.ending.notes:
            metadata = {**metadata, LEFT_TO_CLIENT: "; ".join(self.ending.notes)}
        names = join_tables(self.builder) | {var: port.name for var, port in outputs.items()}
        nodes = tuple(_renamed(node, names) for node in self.builder.nodes)
        if not self.builder.inputs:
            raise LoweringError(
                "no quantizer reads the graph input; start the model with a QuantIdentity"
            )
        return Program(tuple(self.builder.inputs), tuple(outputs.values()), nodes, metadata)

    def argument(self, name: str) -> Symbol | None:
        """What an operand is; None where it is left out."""
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
        if unknown := unknown_operator(proto):
            raise LoweringError(f"{unknown}; {UNKNOWN_CURE}")
        attr = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        if proto.domain in QUANT_DOMAINS:
            return [self.quant(layer, op, args, attr)]
        if op == "Constant":
            return [Clear(constant_of(attr))]
        if op == "Shape" and args[0] is not None:
            sizes = args[0].shape[slice(attr.get("start", 0), attr.get("end"))]
            return [Clear(np.array(sizes, np.int64))]
        if op == "Dropout" and len(args) > 2 and args[2] is not None:
            raise LoweringError("it may drop at random; export the model after model.eval()")
        if op == "Dropout" and len(args) > 1 and args[1] is not None and args[1].shape:
            raise LoweringError(
                "its ratio is no single number; export the model after model.eval()"
            )
        if op == "BatchNormalization" and (attr.get("training_mode") or any(proto.output[1:])):
            raise LoweringError("it is in training; export the model after model.eval()")
        proto, args, attr = modern(proto, args, attr)
        if op in _PASS_THROUGH or (op == "Cast" and self.cast_is_plain(args[0], attr)):
            return [args[0]]  # type: ignore[list-item]
        if op == "Gather" and isinstance(args[1], TokenWise):
            return self.token_wise(layer, proto, args, attr)
        if op == "Gather" and not isinstance(args[1], Clear):
            return [self.lookup(proto, args)]
        moves = layout_moves(layer, op, args, attr, len(proto.output))
        if moves is not None and args[0] is not None:
            return [apply_move(self.builder, layer, args[0], move) for move in moves]
        if any(isinstance(a, TokenWise) for a in args):
            if op in ("QuantizeLinear", "DequantizeLinear"):
                return [tokens_linear(self.builder, layer, op, args, attr)]
            return self.token_wise(layer, proto, args, attr)
        if all(a is None or isinstance(a, Clear) for a in args):
            if op == "DequantizeLinear":
                return [dequantize_linear(args, attr)]
            if op == "QuantizeLinear":
                return [quantize_linear(self.builder, layer, args, attr, [])]
            plain = [a.value if isinstance(a, Clear) else None for a in args]
            return [Clear(apply(proto, plain))]
        return [self.compute(layer, proto, args, attr)]

    def cast_is_plain(self, x: Symbol | None, attr: dict[str, Any]) -> bool:
        """Whether a cast changes no number of what is computed."""
        if isinstance(x, Clear | TokenWise):
            return False
        dtype = helper.tensor_dtype_to_np_dtype(attr["to"])
        return dtype.kind == "f" or whole_numbers(x) or isinstance(x, Unquantized)

    def compute(
        self, layer: str, proto: onnx.NodeProto, args: list[Symbol | None], attr: dict[str, Any]
    ) -> Symbol:
        """An arithmetic operator with at least one operand that is not constant."""
        op = proto.op_type
        if grows(op, args, attr):
            pooled = next(a for a in args if isinstance(a, Pooled))
            before = [pooled.inner if a is pooled else a for a in args]
            after = self.compute(layer, proto, before, attr)
            if isinstance(after, Affine | Pending):
                return dataclasses.replace(pooled, inner=after)
        args = [at_once(self.builder, layer, a) for a in args]
        found = combine(self.builder, layer, op, args, attr)
        if found is not None:
            return found
        given = [a for a in args if a is not None]
        match op:
            case "Add" | "Sub" | "Mul" | "Div":
                return binary(self.builder, layer, proto, given[0], given[1])
            case "QuantizeLinear":
                made = proto.output[0]
                readers = [] if made in self.outputs else self.readers.get(made, [])
                clips = clip_bounds(self.graph, readers)
                return quantize_linear(self.builder, layer, args, attr, clips)
        if op not in ELEMENTWISE:
            cure = _CURES.get(op, "express it with products, sums and element-wise functions")
            raise LoweringError(f"operator {op} is not supported; {cure}")
        if keeps_all(self.builder, op, args):
            return given[0]
        if isinstance(args[0], Unquantized):
            clipped = clip_input(op, args[0], args[1:])
            if clipped is not None:
                return clipped
        if any(isinstance(a, Unquantized) for a in given):
            raise not_quantized("an operand")
        if any(isinstance(a, Pooled) for a in given):
            raise LoweringError(
                "its operand is the largest of float numbers; add a QuantIdentity before it"
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

    def quant(self, layer: str, op: str, args: list[Symbol | None], attr: dict[str, Any]) -> Symbol:
        """A quantizer, of which all but the first operand are constants."""
        x, *parts = args
        if x is None or not all(isinstance(p, Clear) for p in parts):
            raise LoweringError("its scale, zero point and bit width must be constants")
        given = [p.value for p in parts if isinstance(p, Clear)]
        return quantize(self.builder, layer, x, quantizer_of(op, x.shape, given, attr))

    def output(self, name: str, found: dict[str, Port]) -> None:
        """Add the port of a graph output to `found`, under the value that makes it."""
        argument = self.integers("output", self.argument(self.ending.tensor[name]))
        symbol = at_once(self.builder, "output", argument)
        if isinstance(symbol, Unquantized):
            raise not_quantized(f"graph output '{name}'")
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
    inputs: InputOptions | None = None,
) -> Program:
    """The integer program of a QONNX model, before any pass.

    Args:
        model: a graph with `Quant` nodes, as Brevitas or QONNX write it. Batch size 1.
        metadata: strings to keep with the program (task, labels).
        tokens: whether token inputs are one-hot rows or rows of a public table.
        inputs: how numbers enter that no quantizer of the graph reads.

    Raises:
        LoweringError: an unknown operator, an unquantized tensor, scales that do not meet.
        BitWidthError: a table input over 16 bits.
        InputError: `inputs` do not fit the graph.
    """
    inputs = inputs or InputOptions()
    formats = inputs.formats_of(model.graph)
    given = dict(metadata or {})
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused where it is used
            try:
                program = Ingest(model.graph, tokens, {}).run(given)
            except InputNotQuantizedError:
                if not formats:
                    raise
                return Ingest(model.graph, tokens, formats).run(given)
    except RecursionError:
        raise LoweringError(
            "the graph nests too many operations; add a QuantIdentity between them"
        ) from None
    if inputs.bits is not None:
        raise InputError(
            "--input-bits is for inputs that no quantizer reads, and the model quantizes its own; "
            "leave it out"
        )
    return program
