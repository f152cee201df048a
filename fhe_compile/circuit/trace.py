"""Encoded steps in, a function that Concrete traces and the bit widths it must give out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from concrete.fhe.dtypes import Integer
from concrete.fhe.representation import Graph, GraphProcessor, Operation
from concrete.fhe.representation import Node as GraphNode

from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.fhe_compile.tfhe.steps import Encoding, Step


def traced_function(encoding: Encoding) -> Callable[..., Any]:
    """A function of the encoded inputs, `input0`, `input1`, ...; step i is tagged `step<i>`."""
    names = [f"input{i}" for i in range(len(encoding.inputs))]

    def main(**arguments: Any) -> Any:
        results: dict[int, Any] = {
            port.step: arguments[name] for port, name in zip(encoding.inputs, names, strict=True)
        }
        for i, step in enumerate(encoding.steps):
            if step.op == "input":
                continue
            bits = [encoding.steps[a].bits for a in step.args]
            with fhe.tag(f"step{i}"):
                results[i] = _apply(step, bits, [results[a] for a in step.args])
        outputs = tuple(results[step] for step in encoding.returned)
        return outputs if len(outputs) > 1 else outputs[0]

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in names]
    main.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return main


def _apply(step: Step, bits: list[int], args: list[Any]) -> Any:
    match step.op:
        case "zeros":
            return fhe.zeros(step.shape)
        case "matmul":
            return args[0] @ step.clear
        case "add_clear":
            return args[0] + step.clear
        case "multiply":
            return args[0] * step.clear
        case "add":
            return args[0] + args[1]
        case "subtract":
            return args[0] - args[1]
        case "sum":
            axes, keepdims = step.layout
            return np.sum(args[0], axis=axes, keepdims=keepdims)
        case "lookup":
            return _lookup(step, bits[0], args[0])
        case "truncate":
            return fhe.truncate_bit_pattern(args[0], lsbs_to_remove=step.lsbs)
        case "reshape":
            return args[0].reshape(step.shape)
        case "transpose":
            return np.transpose(args[0], step.layout[0])
        case "slice":
            starts, ends, strides = step.layout
            return args[0][tuple(map(slice, starts, ends, strides))]
        case "concat":
            return np.concatenate(tuple(args), axis=step.layout[0])
        case "broadcast":
            return np.broadcast_to(args[0], step.shape)
    raise TypeError(f"no rule for {step.op}")


def _lookup(step: Step, bits: int, x: Any) -> Any:
    assert step.tables is not None
    # A truncated number keeps its position: each entry repeats for every value of the dropped bits.
    tables = np.repeat(step.tables, 2**step.lsbs, axis=1)
    missing = 2**bits - tables.shape[1]
    tables = np.pad(tables, ((0, 0), (0, missing)), mode="edge")
    if step.mapping is None:
        return fhe.LookupTable(tables[0])[x]
    each = np.array([fhe.LookupTable(t) for t in tables], dtype=object)
    return fhe.LookupTable(each[step.mapping])[x]


class ProvedBitWidths(GraphProcessor):
    """Give every graph node the bit width that was proved for its step, instead of a sampled one.

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
                index = int(node.tag.removeprefix("step"))
                step, width = encoding.steps[index], encoding.widths[index]
                node.tag = step.tag
                is_constant = node.operation == Operation.Constant
                bits = width if is_constant else step.bits
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
