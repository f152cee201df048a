"""QONNX graph in, all of its problems at once out: the walk of `ingest`, which goes on.

What a refused node would have made becomes a stand-in, a tensor of its shape of which nothing is
known. Layout moves it; a quantizer that reads it makes it as good as a quantized input, so what
lies behind is looked at too; whatever else reads it only follows from the first problem, unless no
operand would help.

>>> examine("model.qonnx.onnx").ok                                # doctest: +SKIP
False
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from torusformer import LoweringError, TorusformerError
from torusformer.fhe_compile.frontend.findings import (
    DEAR_BITS,
    DearSum,
    Examination,
    Problem,
    Works,
)
from torusformer.fhe_compile.frontend.graphs import layer_of
from torusformer.fhe_compile.frontend.ingest import UNKNOWN_CURE, Ingest
from torusformer.fhe_compile.frontend.quant import MAX_BITS
from torusformer.fhe_compile.frontend.shapes import result_shape
from torusformer.fhe_compile.frontend.symbols import Clear, Symbol, Unquantized
from torusformer.fhe_compile.frontend.token_wise import Tokens, tokens_of
from torusformer.fhe_compile.program.antiperiod import bits_read
from torusformer.fhe_compile.program.nodes import Node, Port, Round, Table
from torusformer.fhe_compile.program.onnx_gate import check_model, unknown_operator
from torusformer.fhe_compile.program.onnx_io import load_model
from torusformer.fhe_compile.program.ranges import MAX_GIVEN

_NO_SHAPE = "?"  # begins the name of a stand-in whose shape nobody knows


def examine(source: str | Path | onnx.ModelProto, tokens: Tokens | None = None) -> Examination:
    """All that keeps a QONNX model (a file or a loaded model) from being lowered, and what works.

    Arguments as `lower`. Each problem stands there once: what only follows from another is left
    out, and layers in which the same was found of the same tensor are named together.

    Raises:
        ArtifactError: the file is missing, truncated, or not ONNX.
    """
    if isinstance(source, onnx.ModelProto):
        model = source
        check_model(model, "the graph", any_operator=True)
    else:
        model = load_model(source, any_operator=True)
    with np.errstate(all="ignore"):
        return _Examine(model.graph, tokens_of(tokens, model)).look()


def place_of(proto: onnx.NodeProto) -> str:
    """The layer as its author wrote it: the module path, or the name of the node."""
    if len([part for part in proto.name.split("/") if part]) > 1:
        return layer_of(proto)
    return proto.name.strip("/") or f"what makes '{proto.output[0]}'"


class _Examine(Ingest):
    """A walk that no node ends."""

    def __init__(self, graph: onnx.GraphProto, tokens: Tokens) -> None:
        self.problems: dict[tuple[str, ...], Problem] = {}  # by what was found of which tensors
        self.works: dict[str, Works] = {}
        self.widths: dict[str, list[tuple[int, int]]] = {}  # by layer: elements and bits of tables
        self.refused: set[str] = set()
        self.stand_ins: set[str] = set()
        self.beyond = 0
        super().__init__(graph, tokens, {})

    def look(self) -> Examination:
        """Walk all of it."""
        for proto in self.ending.nodes:
            self.symbols.update(zip(proto.output, self.step(proto), strict=False))
        found: dict[str, Port] = {}
        for value in self.graph.output:
            if not self._stands_in(self.symbols.get(self.ending.tensor[value.name])):
                self._output(value.name, found)
        if not self.builder.inputs and not self.problems:
            cure = "start the model with a QuantIdentity"
            self._report("graph", "", f"no quantizer reads the graph input; {cure}", ())
        return Examination(
            tuple(self.problems.values()),
            tuple(self._dear()),
            tuple(works for place, works in self.works.items() if place not in self.refused),
            self.beyond,
        )

    def enter(self, value: onnx.ValueInfoProto, tokens: Tokens) -> Symbol:
        """What a graph input is; a stand-in without a shape where that is refused."""
        try:
            return super().enter(value, tokens)
        except TorusformerError as error:
            self._report("input", "", str(error), ())
            return self._stand_in(None)

    def step(self, proto: onnx.NodeProto) -> list[Symbol]:
        """The results of one node, or stand-ins for them."""
        args = [self.symbols[name] if name else None for name in proto.input]
        if any(self._stands_in(arg) for arg in args):
            return self._follow(proto, args)
        before = len(self.builder.nodes)
        try:
            results = super().step(proto)
        except (TorusformerError, RecursionError) as error:
            del self.builder.nodes[before:]
            return self._refuse(proto, args, error)
        self._work(proto, self.builder.nodes[before:])
        return results

    def _refuse(
        self, proto: onnx.NodeProto, args: Sequence[Symbol | None], error: Exception
    ) -> list[Symbol]:
        layer, place = layer_of(proto), place_of(proto)
        message = str(error) if isinstance(error, TorusformerError) else (
            "the graph nests too many operations; add a QuantIdentity between them"
        )  # fmt: skip
        for prefix in (f"{layer} ({proto.op_type}): ", f"{layer}: "):
            message = message.removeprefix(prefix)
        read = tuple(
            name
            for name, arg in zip(proto.input, args, strict=True)
            if arg is not None and not isinstance(arg, Clear)
        )
        self._report(place, proto.op_type, message, read)
        return self._stand_ins_for(proto, args)

    def _follow(self, proto: onnx.NodeProto, args: Sequence[Symbol | None]) -> list[Symbol]:
        """A node that reads stand-ins: what can be said of its results anyway."""
        if said := unknown_operator(proto):
            return self._refuse(proto, args, LoweringError(f"{said}; {UNKNOWN_CURE}"))
        shapes = [arg for arg in args if isinstance(arg, Unquantized) and self._stands_in(arg)]
        if not any(arg.name.startswith(_NO_SHAPE) for arg in shapes):
            fresh = [self._again(arg) if self._stands_in(arg) else arg for arg in args]
            before = len(self.builder.nodes)
            try:
                results = self.evaluate(layer_of(proto), proto, fresh)
            except (TorusformerError, ValueError, IndexError, KeyError, RecursionError) as error:
                del self.builder.nodes[before:]
                if "is not supported" in str(error):  # whatever it reads
                    return self._refuse(proto, args, error)
            else:
                self._work(proto, self.builder.nodes[before:])
                return results
        self.beyond += 1
        return self._stand_ins_for(proto, args)

    def _stand_ins_for(self, proto: onnx.NodeProto, args: Sequence[Symbol | None]) -> list[Symbol]:
        given = [arg for arg in args if arg is not None]
        known = not any(
            isinstance(arg, Unquantized) and arg.name.startswith(_NO_SHAPE) for arg in given
        )
        shape = result_shape(proto, [arg.shape for arg in given]) if known else None
        return [self._stand_in(shape if i == 0 else None) for i in range(len(proto.output))]

    def _stand_in(self, shape: tuple[int, ...] | None) -> Unquantized:
        known = shape is not None and math.prod(shape) <= MAX_GIVEN
        name = f"{'' if known else _NO_SHAPE}unknown.{len(self.stand_ins)}"
        self.stand_ins.add(name)
        return Unquantized(name, shape if shape is not None and known else ())

    def _stands_in(self, symbol: Symbol | None) -> bool:
        return isinstance(symbol, Unquantized) and symbol.name in self.stand_ins

    def _again(self, symbol: Symbol | None) -> Symbol:
        """The same under a name of its own: each reader may quantize it in its way."""
        assert isinstance(symbol, Unquantized)
        return dataclasses.replace(symbol, name=self._stand_in(symbol.shape).name)

    def _work(self, proto: onnx.NodeProto, made: Sequence[Node]) -> None:
        """Note what a node that lowers became."""
        if proto.op_type in ("Constant", "Shape") or all(
            not name or isinstance(self.symbols[name], Clear) for name in proto.input
        ):
            return
        place, ranges = place_of(proto), self.builder.ranges
        known = self.works.get(place, Works(place, ()))
        operators = tuple(dict.fromkeys((*known.operators, proto.op_type)))
        reads = []
        for node in made:
            if isinstance(node, Table):
                x = ranges[node.inputs[0]]
                reads.append((x.lo.size, bits_read(node.values, node.offset, x)))
            elif isinstance(node, Round) and (bits := ranges[node.inputs[0]].span_bits) > MAX_BITS:
                self._report(
                    place,
                    proto.op_type,
                    f"the rounding's input needs {bits} bits, the limit is {MAX_BITS}; lower "
                    "act_bit_width or weight_bit_width",
                    tuple(proto.input),
                )
        self.widths.setdefault(place, []).extend(reads)
        self.works[place] = Works(
            place,
            operators,
            known.tables + sum(count for count, _ in reads),
            max((known.bits, *(bits for _, bits in reads))),
        )

    def _dear(self) -> list[DearSum]:
        found = []
        for place, reads in self.widths.items():
            wide = [(count, bits) for count, bits in reads if bits > DEAR_BITS]
            if wide:
                count, bits = sum(count for count, _ in wide), max(bits for _, bits in wide)
                found.append(DearSum(place, count, bits))
        return found

    def _output(self, name: str, found: dict[str, Port]) -> None:
        try:
            self.output(name, found)
        except LoweringError as error:
            self._report("output", "", str(error), (name,))

    def _report(self, place: str, operator: str, message: str, read: Sequence[str]) -> None:
        self.refused.add(place)
        key = (operator, message, *read)
        first = self.problems.get(key)
        if first is None:
            self.problems[key] = Problem.of(place, operator, message)
        elif place not in (first.layer, *first.also):
            self.problems[key] = dataclasses.replace(first, also=(*first.also, place))
