"""Program and samples in, values of all samples out: many at once where axis 0 is theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import (
    Broadcast,
    Concat,
    Constant,
    IntArray,
    Node,
    Program,
    Reshape,
    Slice,
    Sum,
    Transpose,
)

Sample = Mapping[str, IntArray]
AT_ONCE = 128


def interpret_all(
    program: Program, samples: Sequence[Sample], names: Sequence[str], *, together: bool
) -> dict[str, IntArray]:
    """The values `names` of every sample, (N, *shape); `together` if `runs_together` says so."""
    found: dict[str, list[IntArray]] = {name: [] for name in names}
    chunks = [samples[i : i + AT_ONCE] for i in range(0, len(samples), AT_ONCE)]
    for values in _together(program, chunks) if together else _apart(program, samples):
        for name in names:
            found[name].append(values[name])
    return {name: np.concatenate(rows) for name, rows in found.items()}


def runs_together(program: Program, samples: Sequence[Sample], names: Sequence[str]) -> bool:
    """Whether samples stay apart on axis 0: tried on two of them, different ones if there are."""
    two = [samples[0], samples[-1]]
    try:
        together = interpret_all(program, two, names, together=True)
    except (ValueError, IndexError):
        return False
    apart = interpret_all(program, two, names, together=False)
    return all(np.array_equal(together[name], apart[name]) for name in names)


def _apart(program: Program, samples: Sequence[Sample]) -> Iterator[dict[str, IntArray]]:
    for sample in samples:
        values = interpret(program, sample)
        yield {name: value[None] for name, value in values.items()}


def _together(
    program: Program, chunks: Sequence[Sequence[Sample]]
) -> Iterator[dict[str, IntArray]]:
    shapes = {name: reach.shape for name, reach in program.ranges.items()}
    for chunk in chunks:
        count = len(chunk)
        wide = program.replace(nodes=tuple(_widened(node, count) for node in program.nodes))
        given = {
            port.name: np.concatenate([sample[port.name] for sample in chunk])
            for port in program.inputs
        }
        values = interpret(wide, given)
        yield {name: value.reshape(-1, *shapes[name]) for name, value in values.items()}


def _widened(node: Node, count: int) -> Node:
    """The node for values whose axis 0, of length 1, has become `count` samples."""
    mixes = (
        (isinstance(node, Transpose) and node.perm[0] != 0)
        or (isinstance(node, Concat) and node.axis == 0)
        or (isinstance(node, Sum) and 0 in node.axes)
        or (isinstance(node, Slice) and (node.starts[0], node.ends[0]) != (0, 1))
        or (isinstance(node, Reshape | Broadcast) and node.shape[:1] != (1,))
    )
    if mixes:
        raise ValueError(f"{node.name} mixes samples")
    if isinstance(node, Reshape | Broadcast):
        return replace(node, shape=(count, *node.shape[1:]))
    if isinstance(node, Slice):
        return replace(node, ends=(count, *node.ends[1:]))
    if isinstance(node, Constant) and node.value.shape[:1] == (1,):
        return replace(node, value=np.repeat(node.value, count, axis=0))
    return node
