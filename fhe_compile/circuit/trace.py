"""Encoded operations in, a function that Concrete traces and the bit widths it must give out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from concrete.fhe.dtypes import Integer
from concrete.fhe.representation import Graph, GraphProcessor, Operation
from concrete.fhe.representation import Node as GraphNode
from concrete.fhe.tracing import Tracer
from numpy.typing import NDArray

from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.tfhe.encoding import Encoding


def traced_function(encoding: Encoding) -> Callable[..., Any]:
    """A function of the encoded inputs, `input0`, `input1`, ...; operation i is tagged `op<i>`."""
    backend, names = _Concrete(), [f"input{i}" for i in range(len(encoding.inputs))]

    def main(**arguments: Any) -> Any:
        results: dict[int, Any] = {
            port.operation: arguments[name]
            for port, name in zip(encoding.inputs, names, strict=True)
        }
        for i, op in enumerate(encoding.operations):
            if i in results:  # an input
                continue
            bits = [encoding.operations[arg].bits for arg in op.args]
            with fhe.tag(f"op{i}"):
                results[i] = op.trace([results[arg] for arg in op.args], bits, backend)
        outputs = tuple(results[i] for i in encoding.returned)
        return outputs if len(outputs) > 1 else outputs[0]

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in names]
    main.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return main


class _Concrete:
    """The `Backend` of tensor operations."""

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Encrypted zeros."""
        return fhe.zeros(shape)

    def look_up(self, x: Any, tables: IntArray, mapping: NDArray[np.intp] | None) -> Any:
        """One table, or one an element; in the clear, Concrete would look behind its end."""
        in_the_clear = _Negacyclic(tables, mapping)
        if not isinstance(x, Tracer):
            return in_the_clear(x)
        if mapping is None:
            found = fhe.LookupTable(tables[0])[x]
        else:
            each = np.array([fhe.LookupTable(table) for table in tables], dtype=object)
            found = fhe.LookupTable(each[mapping])[x]
        found.computation.evaluator = in_the_clear
        return found

    def truncate(self, x: Any, lsbs: int) -> Any:
        """Exactly, the bits keep their places."""
        return fhe.truncate_bit_pattern(x, lsbs_to_remove=lsbs)

    def drop(self, x: Any, lsbs: int) -> Any:
        """Concrete's approximate rounding, which is exact where all low bits are zero."""
        if not isinstance(x, Tracer):
            return x
        return fhe.round_bit_pattern(x, lsbs, False, fhe.Exactness.APPROXIMATE)


class _Negacyclic:
    """What a bootstrap reads of tables (n, size): behind their end they go on, negated."""

    def __init__(self, tables: IntArray, mapping: NDArray[np.intp] | None) -> None:
        self.tables = np.concatenate([tables, -tables], axis=1)
        self.mapping = np.array(0) if mapping is None else mapping

    def __call__(self, x: IntArray) -> IntArray:
        """Of each element."""
        found: IntArray = self.tables[self.mapping, np.asarray(x) % self.tables.shape[1]]
        return found


class ProvedBitWidths(GraphProcessor):
    """Give every graph node the bit width proved for its operation, instead of a sampled one.

    Constants are reduced modulo 2**(width + 1), the ring that ciphertexts of that width live in;
    `restore` gives them back, so that the graph can still be evaluated in the clear.
    """

    def __init__(self, encodings: Mapping[str, Encoding]) -> None:
        """By the name of their function, which is that of its graph."""
        self.encodings = encodings
        self.reduced: list[tuple[GraphNode, Any]] = []

    def apply(self, graph: Graph) -> None:
        """Relabel in place, as Concrete's own processors do, and tag by layer and value."""
        encoding = self.encodings[graph.name]
        bits_of_input = {f"input{i}": port.bits for i, port in enumerate(encoding.inputs)}
        graph.location = f"{graph.name}:0"  # no path of this machine in the artefact
        for node in graph.query_nodes(ordered=True):
            node.location = graph.location
            if node.operation == Operation.Input:
                bits = bits_of_input[node.properties["name"]]
            else:
                index = int(node.tag.removeprefix("op"))
                op, width = encoding.operations[index], encoding.widths[index]
                node.tag = op.tag
                is_constant = node.operation == Operation.Constant
                bits = width if is_constant else op.bits
                if is_constant:
                    self._reduce(node, width)
            node.output.dtype = Integer(is_signed=False, bit_width=bits)
            node.bounds = (0, 2**bits - 1)
            for successor in graph.graph.successors(node):
                for edge in graph.graph.get_edge_data(node, successor).values():
                    successor.inputs[edge["input_idx"]] = node.output

    def _reduce(self, node: GraphNode, width: int) -> None:
        value, half = node.properties["constant"], 2**width
        if value.size and (value.min() < -half or value.max() >= half):
            self.reduced.append((node, value))
            node.properties["constant"] = (value + half) % (2 * half) - half

    def restore(self) -> None:
        """Undo the reduction."""
        for node, value in self.reduced:
            node.properties["constant"] = value
