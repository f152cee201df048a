"""An encoded program: tensor operations, how ports become what is encrypted, and layouts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.program.nodes import IntArray, Port
from torusformer.fhe_compile.tfhe.tensor_ops import TensorOp


@dataclass(frozen=True, eq=False)
class EncodedPort:
    """Where a program input enters or an output leaves: integer = (rep + base) >> shift.

    What is `wired` passes between functions of a module as a ciphertext. An output in several
    `parts` (parts, *shape) is their sum.
    """

    port: Port
    operation: int
    base: IntArray
    bits: int
    shift: int = 0
    wired: bool = False
    parts: int = 1

    def encode(self, value: IntArray) -> IntArray:
        """Program integers to what is encrypted, both of the port's shape."""
        return np.ascontiguousarray(value - self.base)

    def decode(self, rep: IntArray) -> IntArray:
        """What is decrypted to program integers."""
        shape = self.port.shape if self.parts == 1 else (self.parts, *self.port.shape)
        found: IntArray = (np.asarray(rep, dtype=np.int64).reshape(shape) + self.base) >> self.shift
        return found if self.parts == 1 else found.sum(axis=0)


@dataclass(frozen=True, eq=False)
class Encoding:
    """Operations in order, the ports, and for each the bits its ciphertexts are laid out for.

    `links` are pairs of operations whose results are the same ciphertext: where functions were
    joined, the output of one and the input of another.
    """

    operations: tuple[TensorOp, ...]
    inputs: tuple[EncodedPort, ...]
    outputs: tuple[EncodedPort, ...]
    widths: tuple[int, ...]
    links: tuple[tuple[int, int], ...] = ()

    @property
    def returned(self) -> tuple[int, ...]:
        """Operations whose results leave: the outputs', then inputs that nothing reads.

        Concrete would drop the latter from the circuit's signature.
        """
        used = {arg for op in self.operations for arg in op.args} | {
            p.operation for p in self.outputs
        }
        unread = tuple(p.operation for p in self.inputs if p.operation not in used)
        return tuple(p.operation for p in self.outputs) + unread


def bits_for(span: int) -> int:
    """Bits of an unsigned number in [0, span], at least one."""
    return max(1, int(span).bit_length())


def component_roots(
    operations: tuple[TensorOp, ...], links: tuple[tuple[int, int], ...] = ()
) -> list[int]:
    """Per operation, one number that it shares with all tied to it by anything but a lookup."""
    root = list(range(len(operations)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, op in enumerate(operations):
        if not op.moves_layout:
            for arg in op.args:
                root[find(arg)] = find(i)
    for one, other in links:
        root[find(one)] = find(other)
    return [find(i) for i in range(len(operations))]


def shared_widths(
    operations: tuple[TensorOp, ...], links: tuple[tuple[int, int], ...] = ()
) -> tuple[int, ...]:
    """Per operation, the largest `bits` in its component: what its ciphertexts are laid out for."""
    roots = component_roots(operations, links)
    width: dict[int, int] = {}
    for root, op in zip(roots, operations, strict=True):
        width[root] = max(width.get(root, 1), op.bits)
    return tuple(width[root] for root in roots)
