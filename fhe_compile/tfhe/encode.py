"""Expanded program in, unsigned tensor operations as TFHE can run them out.

A ciphertext holds an unsigned number. Every value is kept as `rep = value - base`, with a clear
`base` for each element, and only what is *read* (by a table, by a rounding, by the client) must be
proved to lie in [0, 2**bits): additions before that may wrap modulo 2**(bits + 1) harmlessly, so
offsets and zero points cost nothing until a read, and there one clear addition.

Both the planner and the circuit work from the same steps, so what is planned is what is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Broadcast,
    Concat,
    Constant,
    IntArray,
    Linear,
    Node,
    Port,
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
from torusformer.fhe_compile.program.ranges import Interval
from torusformer.fhe_compile.tfhe.steps import (
    LOOKUP,
    TRUNCATE,
    EncodedPort,
    Encoding,
    Step,
    bits_for,
    shared_widths,
)


def encode(program: Program, wires: Mapping[str, Port] | None = None) -> Encoding:
    """Encode an expanded program.

    `wires` names the ports that pass ciphertexts between functions; the bounds given there hold at
    both ends.
    """
    encoder = _Encoder(program, program.ranges, wires or {})
    inputs = [encoder.enter(port) for port in program.inputs]
    for node in program.nodes:
        encoder.values[node.name] = encoder.place(node)
    outputs = [encoder.leave(port) for port in program.outputs]
    steps = tuple(encoder.steps)
    return Encoding(steps, tuple(inputs), tuple(outputs), shared_widths(steps))


def tag_of(node: Node) -> str:
    """Layer and value as Concrete reports them: word characters and dots only."""
    return re.sub(r"[^\w.]", "_", f"{node.layer}.{node.name}").strip(".")


@dataclass(frozen=True, eq=False)
class _Value:
    """A program value during encoding: a step, the base of each element, a pending right shift."""

    step: int
    base: IntArray
    shift: int = 0


class _Encoder:
    def __init__(
        self, program: Program, ranges: Mapping[str, Interval], wires: Mapping[str, Port]
    ) -> None:
        self.ranges, self.wires = ranges, wires
        self.read_by_nodes = program.consumers().keys()
        self.steps: list[Step] = []
        self.values: dict[str, _Value] = {}
        self.indices: dict[tuple[object, ...], int] = {}

    def emit(self, step: Step) -> int:
        """Append a step, or find the one that computes the same."""
        found = self.indices.setdefault(step.key, len(self.steps))
        if found == len(self.steps):
            self.steps.append(step)
        self._widen(found, step.bits)
        return found

    def _widen(self, index: int, bits: int) -> None:
        if bits > self.steps[index].bits:
            self.steps[index] = replace(self.steps[index], bits=bits)

    def make(self, node: Node, op: str, args: tuple[int, ...] = (), **fields: Any) -> int:
        """Emit the step of a node, of the node's shape."""
        shape = fields.pop("shape", self.ranges[node.name].shape)
        return self.emit(Step(op, args, shape, node.layer, tag_of(node), **fields))

    def enter(self, port: Port) -> EncodedPort:
        """An input: the client encrypts integer - lo."""
        wire = self.wires.get(port.name)
        base, bits = wire_layout(wire) if wire else (np.array(port.lo), bits_for(port.hi - port.lo))
        made = Step("input", (), port.shape, "input", port.name, bits, layout=(port.name,))
        step = self.emit(made)
        self.values[port.name] = _Value(step, np.full(port.shape, base))
        return EncodedPort(port, step, base, bits, wired=wire is not None)

    def leave(self, port: Port) -> EncodedPort:
        """An output; one that is a rounding is shifted by the client, for nothing."""
        value = self.values[port.name]
        if wire := self.wires.get(port.name):
            base, bits = wire_layout(wire)
            tag = f"output.{port.name}"
            step = self.align(value, np.broadcast_to(base, port.shape), bits, "output", tag)
            return EncodedPort(port, step, base, bits, wired=True)
        if value.shift:
            bits = self.steps[value.step].bits
            return EncodedPort(port, value.step, value.base, bits, value.shift)
        base, bits = table_base(self.ranges[port.name], np.array(0))
        step = self.align(value, base, bits, "output", f"output.{port.name}")
        return EncodedPort(port, step, base, bits)

    def align(self, value: _Value, base: IntArray, bits: int, layer: str, tag: str) -> int:
        """A step whose rep is value - base, proved to lie in [0, 2**bits)."""
        shape = self.steps[value.step].shape
        offset = np.broadcast_to(value.base - base, shape)
        if not offset.any():
            self._widen(value.step, bits)
            return value.step
        same = (offset == offset.flat[0]).all()
        clear = np.array(offset.flat[0]) if same else np.ascontiguousarray(offset)
        return self.emit(Step("add_clear", (value.step,), shape, layer, tag, bits, clear))

    def place(self, node: Node) -> _Value:
        """Emit what one node needs."""
        match node:
            case Table():
                return self._table(node)
            case Round():
                return self._round(node)
            case Constant():
                return _Value(self.make(node, "zeros"), node.value)
        args = [self.values[i] for i in node.inputs]
        if isinstance(node, Scale) and args[0].shift and (node.factor == 1 << args[0].shift).all():
            return replace(args[0], shift=0)  # a rounding keeps its place: the low bits are zero
        for arg, name in zip(args, node.inputs, strict=True):
            if arg.shift:
                raise TypeError(f"{node.layer}: {node.op} reads the rounding {name}; expand first")
        steps, bases = tuple(a.step for a in args), [a.base for a in args]
        return self._linear(node, steps, bases) or self._structural(node, steps, bases)

    def _table(self, node: Table) -> _Value:
        source, x, out = self.values[node.inputs[0]], self.ranges[node.inputs[0]], node.name
        if source.shift:  # a rounding: its base and bits are fixed
            step, base = source.step, source.base >> source.shift
            bits = self.steps[step].bits - source.shift
        else:
            base, bits = table_base(x, node.offset)
            step = self.align(source, base, bits, node.layer, tag_of(node))
        tables, mapping, base_out = tables_of(node, x, self.ranges[out], base, bits)
        if len(tables) == 1 and (tables == tables[0, 0]).all():  # no table at all
            return _Value(self.make(node, "zeros"), base_out + tables[0, 0])
        width = bits_for(tables.max())
        fields = {"tables": tables, "mapping": mapping, "lsbs": source.shift}
        fields["layout"] = ("apart",) if node.apart else ()
        return _Value(self.make(node, LOOKUP, (step,), bits=width, **fields), base_out)

    def _round(self, node: Round) -> _Value:
        source, x = self.values[node.inputs[0]], self.ranges[node.inputs[0]]
        base, bits = round_base(x, node.lsbs)
        step = self.align(source, base, bits, node.layer, tag_of(node))
        if bits <= node.lsbs:  # nothing remains
            return _Value(self.make(node, "zeros"), base >> node.lsbs)
        if node.name in self.read_by_nodes:  # else only the client reads it, and shifts it itself
            step = self.make(node, TRUNCATE, (step,), bits=bits, lsbs=node.lsbs)
        return _Value(step, base, node.lsbs)

    def _linear(self, node: Node, steps: tuple[int, ...], bases: list[IntArray]) -> _Value | None:
        """Operations that act alike on representations and on bases."""
        match node:
            case AddConst():
                return _Value(steps[0], bases[0] + node.value)
            case Linear():
                made = self.make(node, "matmul", steps, clear=node.weight)
                return _Value(made, bases[0] @ node.weight)
            case Scale():
                if (node.factor == 1).all():
                    return _Value(steps[0], bases[0])
                made = self.make(node, "multiply", steps, clear=node.factor)
                return _Value(made, bases[0] * node.factor)
            case Add():
                return _Value(self.make(node, "add", steps), bases[0] + bases[1])
            case Sub():
                return _Value(self.make(node, "subtract", steps), bases[0] - bases[1])
            case Sum():
                made = self.make(node, "sum", steps, layout=(node.axes, node.keepdims))
                total = bases[0].sum(axis=node.axes, keepdims=node.keepdims)
                return _Value(made, np.asarray(total))
        return None

    def _structural(self, node: Node, steps: tuple[int, ...], bases: list[IntArray]) -> _Value:
        """Operations that move elements."""
        layout: tuple[Any, ...] = ()
        op, same = node.op.lower(), self.steps[steps[0]].shape == self.ranges[node.name].shape
        match node:
            case Reshape():
                base = bases[0].reshape(node.shape)
            case Broadcast():
                base = np.broadcast_to(bases[0], node.shape)
            case Slice():
                layout, base = (node.starts, node.ends, node.steps), bases[0][node.index]
            case Transpose():
                layout, base = (node.perm,), bases[0].transpose(node.perm)
                same = node.perm == tuple(range(len(node.perm)))
            case Concat():
                layout, base = (node.axis,), np.concatenate(bases, axis=node.axis)
                same = len(steps) == 1
            case _:
                raise TypeError(f"{node.layer}: {node.op} must be expanded before it is encoded")
        return _Value(steps[0] if same else self.make(node, op, steps, layout=layout), base)


def wire_layout(port: Port) -> tuple[IntArray, int]:
    """Base and bits of what passes between functions.

    One below the lowest: a clear addition has to stand behind the table that made the value, since
    a bare table result keeps its table's key and readers of another width could not take it.
    """
    return np.array(port.lo - 1), bits_for(port.hi - port.lo + 1)


def table_base(x: Interval, offset: IntArray) -> tuple[IntArray, int]:
    """Base and bits with which a table reads x: the fewest bits, then the fewest tables."""
    bits = x.span_bits
    first, last = x.lo + offset, x.hi + offset
    if bits_for(last.max() - first.min()) == bits:  # one table for all
        return np.broadcast_to(first.min() - offset, x.shape), bits
    if bits_for(x.hi.max() - x.lo.min()) == bits:
        return np.full(x.shape, x.lo.min()), bits
    return x.lo, bits


def round_base(x: Interval, lsbs: int) -> tuple[IntArray, int]:
    """Base, a multiple of 2**lsbs, and bits with which a rounding reads x."""
    base = (x.lo >> lsbs) << lsbs
    bits = bits_for((x.hi - base).max())
    if bits_for(x.hi.max() - base.min()) == bits:
        base = np.full(x.shape, base.min())
    return base, bits


def tables_of(
    node: Table, x: Interval, out: Interval, base: IntArray, bits: int
) -> tuple[IntArray, Any, IntArray]:
    """Distinct tables of 2**bits entries from zero, which one an element reads, the result's base.

    Elements whose reps start at one place in `node.values` share a table.
    """
    starts, which = np.unique(np.broadcast_to(base + node.offset, x.shape), return_inverse=True)
    which = which.ravel()
    first, last, low = (np.full(len(starts), fill) for fill in (2**62, -(2**62), 2**62))
    np.minimum.at(first, which, np.broadcast_to(x.lo + node.offset, x.shape).ravel())
    np.maximum.at(last, which, np.broadcast_to(x.hi + node.offset, x.shape).ravel())
    np.minimum.at(low, which, out.lo.ravel())
    if bits_for(out.hi.max() - out.lo.min()) == out.span_bits:
        low[:] = out.lo.min()  # no wider, and more tables are alike
    index = np.clip(starts[:, None] + np.arange(2**bits), first[:, None], last[:, None])
    tables, row = np.unique(node.values[index] - low[:, None], axis=0, return_inverse=True)
    mapping = row.ravel()[which].reshape(x.shape) if len(tables) > 1 else None
    return tables, mapping, low[which].reshape(x.shape)
