"""Integer program and integers in, integers out: the numpy oracle every other stage must equal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    ArgMax,
    Broadcast,
    Concat,
    Constant,
    IntArray,
    Linear,
    MatMul,
    Max,
    Mul,
    Node,
    Program,
    Reshape,
    Round,
    Scale,
    Slice,
    Sub,
    Sum,
    Table,
    Transpose,
)


def evaluate(node: Node, args: list[IntArray]) -> IntArray:
    """One node on concrete integers."""
    match node:
        case Constant():
            return node.value
        case Linear():
            return args[0] @ node.weight
        case Add():
            return args[0] + args[1]
        case Sub():
            return args[0] - args[1]
        case AddConst():
            return args[0] + node.value
        case Scale():
            return args[0] * node.factor
        case Sum():
            return np.asarray(args[0].sum(axis=node.axes, keepdims=node.keepdims))
        case Mul():
            return args[0] * args[1]
        case ArgMax():
            return np.eye(args[0].shape[-1], dtype=np.int64)[args[0].argmax(-1)]
        case Max():
            return np.maximum(args[0], args[1])
        case MatMul():
            return args[0] @ args[1]
        case Table():
            return node.values[args[0] + node.offset]
        case Round():
            return args[0] >> node.lsbs
        case Reshape():
            return args[0].reshape(node.shape)
        case Transpose():
            return args[0].transpose(node.perm)
        case Slice():
            return args[0][node.index]
        case Concat():
            return np.concatenate(args, axis=node.axis)
        case Broadcast():
            return np.broadcast_to(args[0], node.shape)
    raise TypeError(f"no rule for {type(node).__name__}")


def interpret(program: Program, inputs: Mapping[str, IntArray]) -> dict[str, IntArray]:
    """Every value of the program by name, inputs included.

    `inputs` maps port names to int64 arrays of the port's shape.
    """
    values = {port.name: np.asarray(inputs[port.name], dtype=np.int64) for port in program.inputs}
    for node in program.nodes:
        values[node.name] = evaluate(node, [values[i] for i in node.inputs])
    return values
