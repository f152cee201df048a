"""Logits in, their parts out, which the client adds up: no sum is read at high precision.

The client reads a sum over many channels at as many bits as it has, and the noise of all of them
is in it: every table that writes into it needs the precise parameters, at nearly twice the work.
What is summed up together is laid out together, so tables that read the same channels suffer from
the wide sum, too. Parts over a few channels each are narrow and quiet. They are decrypted and added
by the client: more ciphertexts in the reply, and not one bootstrap more.

Worked example: 128 channels of -1, 0 or 1 with weights of 1 are 257 numbers: nine bits, and the
noise of 128 tables. Nine parts of 15 channels are five bits with that of 15.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.refresh import squared_weights
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Concat,
    IntArray,
    Linear,
    Node,
    Program,
    Reshape,
    Slice,
    Sum,
    Table,
)

MAX_PARTS = 128  # of an output: each is as many ciphertexts
MAX_BITS = 16
CHEAP = range(1, 5)  # bits of tables that are to stay so


def split_outputs(program: Program, options: PassOptions) -> Program:
    """The same program with outputs in parts, where a linear map alone makes them."""
    return _Split(program, options).run()


def _limit(options: PassOptions, reader: str) -> float:
    """The precision at which such a reader may read results of cheap tables of few bits."""
    return min(options.prices.precise_limit(bits, reader) for bits in CHEAP)


class _Split:
    """One walk over the outputs of one program."""

    def __init__(self, program: Program, options: PassOptions) -> None:
        self.program, self.limit = program, _limit(options, "rounding")
        self.made = {node.name: node for node in program.nodes}
        self.readers = program.consumers()
        self.outputs = {port.name for port in program.outputs}
        self.decrypted = self.outputs - options.wired  # not what another function reads
        self.noise = squared_weights(program, of_inputs=0.0)
        tables = (node.inputs[0] for node in program.nodes if isinstance(node, Table))
        noisiest = max((self.noise[name] for name in tables), default=1.0)
        # So wide may a part be that its neighbours in the layout are still read by cheap tables.
        widest = _limit(options, "table") - math.log2(max(1.0, noisiest)) / 2
        self.widths = range(1, int(max(1.0, min(widest, self.limit, MAX_BITS))) + 1)

    def run(self) -> Program:
        new: dict[str, list[Node]] = {}
        gone: set[str] = set()
        for name in self.decrypted & self.made.keys() - self.readers.keys():
            passed: set[str] = set()
            maps, offset = self._maps(name, passed) or ([], np.array(0))
            ways = ([p for each in maps for p in self._parts(each, bits)] for bits in self.widths)
            parts = min(ways, key=len)
            if 1 < len(parts) <= MAX_PARTS:
                new[name] = self._nodes(name, parts, offset)
                gone |= passed | {name}
        nodes: list[Node] = []
        for node in self.program.nodes:
            nodes += new.get(node.name, [] if node.name in gone else [node])
        return self.program.forgetting(gone - self.outputs).rewritten(nodes)

    def _maps(self, name: str, passed: set[str]) -> tuple[list[Linear], IntArray] | None:
        """Linear maps that add up to a value, and the clear number beside them; None if others do.

        `passed` gets the names of what becomes superfluous.
        """
        node, x = self.made.get(name), self.program.ranges[name]
        if (x.lo == x.hi).all():
            return [], x.lo
        if name not in self.outputs and len(self.readers[name]) != 1:
            return None
        passed.add(name)
        match node:
            case Linear():
                return [node], np.array(0)
            case AddConst():
                found = self._maps(node.inputs[0], passed)
                return found and (found[0], found[1] + node.value)
            case Add():
                if any(self.program.ranges[n].shape != x.shape for n in node.inputs):
                    return None
                left, right = (self._maps(n, passed) for n in node.inputs)
                return left and right and (left[0] + right[0], left[1] + right[1])
        return None

    def _parts(self, node: Linear, bits: int) -> list[tuple[Linear, int, int]]:
        """Runs of channels, first and behind the last, that the client may read at `bits` bits.

        That wide are all parts, as they are laid out together.
        """
        source = node.inputs[0]
        x, noise = self.program.ranges[source], self.noise[source]
        reach = (x.hi - x.lo).reshape(-1, x.shape[-1]).max(axis=0)
        span, square = np.zeros(node.weight.shape[1]), np.zeros(node.weight.shape[1])
        ends = [0]
        for k, row in enumerate(node.weight):
            more_span, more_square = span + abs(row) * reach[k], square + noise * row**2
            needed = bits + math.log2(max(1.0, more_square.max())) / 2
            if (more_span.max() >= 2**bits or needed > self.limit) and k > ends[-1]:
                ends.append(k)
                more_span, more_square = abs(row) * reach[k], noise * row**2
            span, square = more_span, more_square
        return [(node, a, b) for a, b in zip(ends, [*ends[1:], len(node.weight)], strict=True)]

    def _nodes(
        self, name: str, parts: list[tuple[Linear, int, int]], offset: IntArray
    ) -> list[Node]:
        layer = self.made[name].layer
        shape = self.program.ranges[name].shape
        nodes: list[Node] = []
        rows: list[str] = []
        for i, (node, first, last) in enumerate(parts):
            x = self.program.ranges[node.inputs[0]].shape
            whole = first == 0 and last == len(node.weight)
            read = node.inputs[0] if whole else f"{name}.channels.{i}"
            if not whole:
                starts, stops = (0,) * len(x), (*x[:-1], last)
                nodes.append(
                    Slice(read, layer, node.inputs, (*starts[:-1], first), stops, (1,) * len(x))
                )
            part = replace(
                node, name=f"{name}.part.{i}", inputs=(read,), weight=node.weight[first:last]
            )
            row = Reshape(f"{name}.row.{i}", layer, (part.name,), (1, *shape))
            nodes += [part, row]
            rows.append(row.name)
        joined = Concat(f"{name}.parts", layer, tuple(rows), 0)
        nodes.append(joined)
        summed = joined.name
        if offset.any():  # of one part, so that their sum has it once
            first_only = np.zeros((len(parts), *shape), np.int64)
            first_only[0] = offset
            nodes.append(AddConst(f"{name}.offset", layer, (summed,), first_only))
            summed = nodes[-1].name
        return [*nodes, Sum(name, layer, (summed,), (0,), False, by_client=True)]
