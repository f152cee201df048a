"""Expanded program in, unsigned tensor operations as TFHE can run them out.

A ciphertext holds an unsigned number. Every value is kept as `rep = value - base`, with a clear
`base` for each element, and only what is *read* (by a table, by a rounding, by the client) must be
proved to lie in [0, 2**bits): additions before that may wrap modulo 2**(bits + 1) harmlessly, so
offsets and zero points cost nothing until a read, and there one clear addition.

Both the planner and the circuit work from the same operations, so what is planned is what is
compiled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torusformer.fhe_compile.program.antiperiod import Fold, folded_tables, narrowest_fold
from torusformer.fhe_compile.program.nodes import IntArray, Node, Port, Program, Table
from torusformer.fhe_compile.program.ranges import Interval, whole_numbers
from torusformer.fhe_compile.tfhe.bases import round_base, table_base, tables_of, wire_layout
from torusformer.fhe_compile.tfhe.encoding import EncodedPort, Encoding, bits_for, shared_widths
from torusformer.fhe_compile.tfhe.tensor_ops import (
    AddClear,
    Apply,
    Drop,
    Input,
    Lookup,
    TensorOp,
    Truncate,
    Wrap,
    Zeros,
)


def encode(program: Program, wires: Mapping[str, Port] | None = None) -> Encoding:
    """Encode an expanded program.

    `wires` names the ports that pass ciphertexts between functions; the bounds given there hold at
    both ends.
    """
    encoder = _Encoder(program, wires or {})
    inputs = [encoder.enter(port) for port in program.inputs]
    for node in program.nodes:
        node.encode(encoder)
    outputs = [encoder.leave(port) for port in program.outputs]
    return _needed(encoder.operations, inputs, outputs)


def _needed(
    operations: Sequence[TensorOp], inputs: Sequence[EncodedPort], outputs: Sequence[EncodedPort]
) -> Encoding:
    """Without operations that no output reads: a table of one entry reads nothing."""
    needed = {port.operation for port in (*inputs, *outputs)}
    for i in reversed(range(len(operations))):
        if i in needed:
            needed.update(operations[i].args)
    place = {old: new for new, old in enumerate(sorted(needed))}
    kept = tuple(
        replace(operations[old], args=tuple(place[arg] for arg in operations[old].args))
        for old in place
    )
    entering, leaving = (
        tuple(replace(port, operation=place[port.operation]) for port in ports)
        for ports in (inputs, outputs)
    )
    return Encoding(kept, entering, leaving, shared_widths(kept))


def tag_of(node: Node) -> str:
    """Layer and value as Concrete reports them: word characters and dots only."""
    return re.sub(r"[^\w.]", "_", f"{node.layer}.{node.name}").strip(".")


@dataclass(frozen=True, eq=False)
class _Value:
    """A program value during encoding: an operation, each element's base, a pending right shift.

    Of one that is shifted, by the node `rounding`, low bits still stand in the operation: who reads
    it drops them, at the width at which it reads; without a bootstrap where they are all `zeros`.
    Parts of an output, summed up over their first axis by the client, have a `reach`.
    """

    operation: int
    base: IntArray
    shift: int = 0
    rounding: Node | None = None
    zeros: bool = False
    reach: Interval | None = None


class _Encoder:
    """The `Encoder` that nodes are encoded by."""

    def __init__(self, program: Program, wires: Mapping[str, Port]) -> None:
        self.ranges, self.wires = program.ranges, wires
        self.readers = program.consumers()
        self.operations: list[TensorOp] = []
        self.values: dict[str, _Value] = {}
        self.indices: dict[tuple[object, ...], int] = {}

    def constant(self, node: Node, value: IntArray) -> None:
        """Zeros, and the value as base."""
        self.values[node.name] = _Value(self._make(node, Zeros), value)

    def keep(self, node: Node) -> None:
        """The same ciphertexts on another base."""
        (value,) = self._inputs(node)
        self.values[node.name] = _Value(value.operation, np.asarray(node.evaluate([value.base])))

    def move(self, node: Node) -> None:
        """Nothing to do where the only input keeps its shape."""
        shapes = [self.ranges[name].shape for name in node.inputs]
        if shapes == [self.ranges[node.name].shape]:
            self.keep(node)
        else:
            self.apply(node)

    def apply(self, node: Node) -> None:
        """The same on ciphertexts and bases."""
        values = self._inputs(node)
        made = self._make(node, Apply, tuple(v.operation for v in values), node=node)
        self.values[node.name] = _Value(made, np.asarray(node.evaluate([v.base for v in values])))

    def unrounds(self, node: Node, factor: IntArray) -> bool:
        """A rounding keeps its place: its low bits are zero already."""
        value = self.values[node.inputs[0]]
        if value.rounding is None or (factor != 1 << value.shift).any():
            return False
        made, base = value.operation, value.base
        if not value.zeros:
            made, base, _ = self._dropped(value, value.rounding)
        self.values[node.name] = _Value(made, base)
        return True

    def round(self, node: Node, lsbs: int, zeros: bool) -> None:
        """Nothing yet: who reads it drops its low bits, and the client shifts by itself."""
        (source,), x = self._inputs(node), self.ranges[node.inputs[0]]
        base, bits = round_base(x, lsbs)
        if bits <= lsbs:  # nothing remains
            self.constant(node, base >> lsbs)
            return
        self.values[node.name] = _Value(source.operation, source.base, lsbs, node, zeros)

    def look_up(
        self, node: Node, offset: IntArray, values: IntArray, apart: bool, least: int
    ) -> None:
        """A lookup, unless every input gives the same."""
        source, x, out = self.values[node.inputs[0]], self.ranges[node.inputs[0]], node.name
        index = Interval(x.lo + offset, x.hi + offset)
        fold = narrowest_fold(values, index) if self._may_wrap(source) else None
        if fold and not fold.bits < least >= index.span_bits:
            self._look_up_in_a_ring(node, index, values, fold, apart)
            return
        if source.rounding is not None:  # its base is fixed
            read, base, bits = self._dropped(source, source.rounding, least)
            base, bits = base >> source.shift, bits - source.shift
        else:
            base, bits = table_base(x, offset)
            bits = max(bits, least)
            read = self._align(source, base, bits, node.layer, tag_of(node))
        whole_numbers(node.layer, 0, 2**bits - 1)
        tables, mapping, base_out = tables_of(offset, values, x, self.ranges[out], base, bits)
        if len(tables) == 1 and (tables == tables[0, 0]).all():  # no table at all
            self.constant(node, base_out + tables[0, 0])
            return
        fields = {"tables": tables, "mapping": mapping, "lsbs": source.shift, "apart": apart}
        made = self._make(node, Lookup, (read,), bits=bits_for(tables.max()), **fields)
        self.values[out] = _Value(made, base_out)

    def leave_parts(self, node: Node) -> None:
        """Nothing to do; `leave` tells the client."""
        (value,) = self._inputs(node)
        self.values[node.name] = replace(value, reach=self.ranges[node.inputs[0]])

    def _look_up_in_a_ring(
        self, node: Node, index: Interval, values: IntArray, fold: Fold, apart: bool
    ) -> None:
        """A lookup that sees its input modulo 2**(bits + 1); of some bases that with fewest tables.

        A rounding before it sees its own modulo 2**(bits + 1 + lsbs): what it drops is not above.
        Concrete takes a table of equal entries for a constant, which it is not: a sign is read one
        step away from where its entries are equal.
        """
        source, x = self.values[node.inputs[0]], self.ranges[node.inputs[0]]
        offset = index.lo - x.lo
        bases = index.lo.min() - offset, np.full(x.shape, x.lo.min()), x.lo
        ways = [(base, *folded_tables(values, index, base + offset, fold)) for base in bases]
        base, tables, mapping = min(ways, key=lambda way: len(way[1]))
        if (signs := (tables == tables[:, :1]).all(axis=1)).any():
            base = base - signs[mapping]
            tables, mapping = folded_tables(values, index, base + offset, fold)
        if not tables.any():  # no table at all
            self.constant(node, fold.half)
            return
        lsbs = source.shift
        clear = np.broadcast_to(source.base - (base << lsbs), x.shape)
        clear = np.array(clear.flat[0]) if (clear == clear.flat[0]).all() else clear
        bits = fold.bits + lsbs
        if lsbs:  # a ring further: Concrete would take it for the same sum in a wider ring
            clear = clear + (2 << bits)
        read = self._make(node, Wrap, (source.operation,), offset=clear, bits=bits)
        if source.rounding is not None:
            read = self._without_low_bits(source, source.rounding, read)
        which = mapping if len(tables) > 1 else None
        fields = {"tables": tables, "mapping": which, "lsbs": lsbs, "apart": apart}
        made = self._make(node, Lookup, (read,), bits=bits_for(abs(tables).max()), **fields)
        self.values[node.name] = _Value(made, fold.half)

    def _may_wrap(self, source: _Value) -> bool:
        """Whether no reader needs a rounding in full, or it costs nothing to drop its low bits."""
        return (
            source.rounding is None
            or source.zeros
            or all(isinstance(by, Table) for by in self.readers.get(source.rounding.name, ()))
        )

    def _shifted(self, value: _Value, node: Node, least: int = 0) -> tuple[int, IntArray, int]:
        """What the rounding `node` reads in full: an operation, its base and bits."""
        base, bits = round_base(self.ranges[node.inputs[0]], value.shift)
        bits = max(bits, least + value.shift) if value.zeros else bits
        return self._align(value, base, bits, node.layer, tag_of(node)), base, bits

    def _dropped(self, value: _Value, node: Node, least: int = 0) -> tuple[int, IntArray, int]:
        """The same without its low bits."""
        read, base, bits = self._shifted(value, node, least)
        return self._without_low_bits(value, node, read), base, bits

    def _without_low_bits(self, value: _Value, node: Node, read: int) -> int:
        bits, kind = self.operations[read].bits, Drop if value.zeros else Truncate
        return self._make(node, kind, (read,), bits=bits, lsbs=value.shift)

    def enter(self, port: Port) -> EncodedPort:
        """An input: the client encrypts integer - lo."""
        wire = self.wires.get(port.name)
        base, bits = wire_layout(wire) if wire else (np.array(port.lo), bits_for(port.hi - port.lo))
        wired = wire is not None
        made = self._emit(Input((), port.shape, "input", port.name, wired, bits=bits))
        self.values[port.name] = _Value(made, np.full(port.shape, base))
        return EncodedPort(port, made, base, bits, wired=wired)

    def leave(self, port: Port) -> EncodedPort:
        """An output; one that is a rounding is shifted by the client, for nothing."""
        value = self.values[port.name]
        if wire := self.wires.get(port.name):
            base, bits = wire_layout(wire)
            tag = f"output.{port.name}"
            made = self._align(value, np.broadcast_to(base, port.shape), bits, "output", tag)
            return EncodedPort(port, made, base, bits, wired=True)
        if value.rounding is not None:
            made, base, bits = self._shifted(value, value.rounding)
            return EncodedPort(port, made, base, bits, value.shift)
        reach = value.reach or self.ranges[port.name]
        base, bits = table_base(reach, np.array(0))
        made = self._align(value, base, bits, "output", f"output.{port.name}")
        parts = 1 if value.reach is None else reach.shape[0]
        return EncodedPort(port, made, base, bits, parts=parts)

    def _inputs(self, node: Node) -> list[_Value]:
        """Values of a node's inputs, none of them a rounding or an output in parts."""
        for name in node.inputs:
            if self.values[name].reach is not None:
                raise TypeError(f"{node.layer}: {node.op} reads {name}, which the client sums up")
            if self.values[name].shift:
                raise TypeError(
                    f"{node.layer}: {node.op} reads the rounding {name}; run sink_rounds before"
                )
        return [self.values[name] for name in node.inputs]

    def _align(self, value: _Value, base: IntArray, bits: int, layer: str, tag: str) -> int:
        """An operation whose rep is value - base, proved to lie in [0, 2**bits)."""
        shape = self.operations[value.operation].shape
        offset = np.broadcast_to(value.base - base, shape)
        if not offset.any():
            self._widen(value.operation, bits)
            return value.operation
        same = (offset == offset.flat[0]).all()
        clear = np.array(offset.flat[0]) if same else np.ascontiguousarray(offset)
        return self._emit(AddClear((value.operation,), shape, layer, tag, clear, bits=bits))

    def _make(
        self, for_: Node, kind: type[TensorOp], args: tuple[int, ...] = (), **fields: Any
    ) -> int:
        """Emit an operation for a node, of the node's shape."""
        shape = self.ranges[for_.name].shape
        return self._emit(kind(args, shape, for_.layer, tag_of(for_), **fields))

    def _emit(self, operation: TensorOp) -> int:
        """Append an operation, or find the one that computes the same."""
        key = (operation.args, operation.shape, *operation.content)
        found = self.indices.setdefault(key, len(self.operations))
        if found == len(self.operations):
            self.operations.append(operation)
        self._widen(found, operation.bits)
        return found

    def _widen(self, index: int, bits: int) -> None:
        if bits > self.operations[index].bits:
            self.operations[index] = replace(self.operations[index], bits=bits)
