"""The unsigned tensor operations that a circuit is traced from and a plan is counted from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusformer.fhe_compile.program.nodes import IntArray, Port

# Operands and result of an operation share one layout (the position of the message in the
# ciphertext), except for a lookup, which moves to another.
LOOKUP = "lookup"
TRUNCATE = "truncate"


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on unsigned representations; `args` are indices of earlier steps.

    `layer` is where in the model it comes from, `tag` adds the value: what Concrete counts under.
    `bits` is what the result must hold: proved where it is read, 1 where it may wrap.
    `clear` is the weight, the offset or the factor; a lookup has `tables` (n, 2**bits read) and,
    if n > 1, `mapping` (the table that each element reads). A truncation clears `lsbs` low bits,
    and a lookup with `lsbs` reads such a truncation.
    """

    op: str
    args: tuple[int, ...]
    shape: tuple[int, ...]
    layer: str
    tag: str
    bits: int = 1
    clear: IntArray | None = None
    tables: IntArray | None = None
    mapping: NDArray[np.intp] | None = None
    lsbs: int = 0
    layout: tuple[Any, ...] = ()

    @property
    def size(self) -> int:
        """Number of ciphertexts in the result."""
        return math.prod(self.shape)

    @property
    def key(self) -> tuple[object, ...]:
        """Two steps with one key compute the same: arrays by content."""
        arrays = (self.clear, self.tables, self.mapping)
        content = tuple(None if a is None else (a.shape, a.tobytes()) for a in arrays)
        return (self.op, self.args, self.shape, self.lsbs, self.layout, *content)


@dataclass(frozen=True, eq=False)
class EncodedPort:
    """Where a program input enters or an output leaves: integer = (rep + base) >> shift.

    What is `wired` passes between functions of a module as a ciphertext.
    """

    port: Port
    step: int
    base: IntArray
    bits: int
    shift: int = 0
    wired: bool = False

    def encode(self, value: IntArray) -> IntArray:
        """Program integers to what is encrypted, both of the port's shape."""
        return np.ascontiguousarray(value - self.base)

    def decode(self, rep: IntArray) -> IntArray:
        """What is decrypted to program integers."""
        return (np.asarray(rep, dtype=np.int64).reshape(self.port.shape) + self.base) >> self.shift


@dataclass(frozen=True, eq=False)
class Encoding:
    """Steps in order, the ports, and for every step the bits its ciphertexts are laid out for.

    `links` are pairs of steps whose results are the same ciphertext: where functions were joined,
    the output of one and the input of another.
    """

    steps: tuple[Step, ...]
    inputs: tuple[EncodedPort, ...]
    outputs: tuple[EncodedPort, ...]
    widths: tuple[int, ...]
    links: tuple[tuple[int, int], ...] = ()

    @property
    def returned(self) -> tuple[int, ...]:
        """Steps whose results leave: the outputs', then inputs that nothing reads.

        Concrete would drop the latter from the circuit's signature.
        """
        used = {arg for step in self.steps for arg in step.args} | {p.step for p in self.outputs}
        unread = tuple(p.step for p in self.inputs if p.step not in used)
        return tuple(p.step for p in self.outputs) + unread


def bits_for(span: int) -> int:
    """Bits of an unsigned number in [0, span], at least one."""
    return max(1, int(span).bit_length())


def component_roots(steps: tuple[Step, ...], links: tuple[tuple[int, int], ...] = ()) -> list[int]:
    """Per step, one number that it shares with all steps tied to it by anything but a lookup."""
    root = list(range(len(steps)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, step in enumerate(steps):
        if step.op != LOOKUP:
            for arg in step.args:
                root[find(arg)] = find(i)
    for one, other in links:
        root[find(one)] = find(other)
    return [find(i) for i in range(len(steps))]


def shared_widths(
    steps: tuple[Step, ...], links: tuple[tuple[int, int], ...] = ()
) -> tuple[int, ...]:
    """Per step, the largest `bits` in its component: what its ciphertexts are laid out for."""
    roots = component_roots(steps, links)
    width: dict[int, int] = {}
    for root, step in zip(roots, steps, strict=True):
        width[root] = max(width.get(root, 1), step.bits)
    return tuple(width[root] for root in roots)
