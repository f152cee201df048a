"""Encoded operations in, what Concrete's choice of parameters makes of them out.

Operations that share a layout form a *component*: tables write into it, tables and roundings read
from it. From the components follow how precise tables must be, which keys there are, and their
bytes.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torusformer.fhe_compile.prices.cost import KeySizes, PriceList
from torusformer.fhe_compile.tfhe.encoding import Encoding, component_roots
from torusformer.fhe_compile.tfhe.tensor_ops import Drop, Lookup, TensorOp, Truncate

PROCESS_BYTES = 500 * 2**20  # Python, Concrete, the compiled circuit
SEEDED_BYTES = 24  # of a compressed ciphertext
ROUNDING = 0  # stands for the parameters of roundings where tables have their bits


@dataclass(frozen=True)
class Dear:
    """Why tables of `bits` bits take twice the work: what one sum of their results is.

    It is made in `layer` and laid out at `read_bits`. `squared_weights` is the sum of squares that
    stands between, `limit` what the cheap parameters bear at that width.
    """

    bits: int
    layer: str
    read_bits: int
    squared_weights: float
    limit: float

    def __str__(self) -> str:
        why = (
            f"{self.bits}-bit tables take twice the work: a sum of their results in {self.layer} is"
            f" laid out at {self.read_bits} bits, its squared weights are"
            f" {self.squared_weights:.0f};"
        )
        if self.limit < 1:
            return f"{why} cheap ones never bear that. Narrower sums beside it cure it"
        return f"{why} cheap ones bear {self.limit:.0f}. Fewer or smaller weights cure it"


class _Read(NamedTuple):
    """The most precise read of a kind: how precise, and the operation that is read."""

    needed: float
    operation: int


class Estimate:
    """Parameters of every width of table in one circuit, and the bytes of its keys."""

    def __init__(
        self, encoding: Encoding, prices: PriceList, module: Estimate | None = None
    ) -> None:
        """`module`: of all functions joined, where this is one of several with the same keys."""
        self.encoding, self.prices = encoding, prices
        self.roots = component_roots(encoding.operations, encoding.links)
        self.noise = squared_weights(encoding)
        self.reads: dict[int, dict[str, _Read]] = module.reads if module else self._of_widths()

    def bits_read(self, op: Lookup) -> int:
        """Bits that a lookup reads."""
        return self.encoding.operations[op.args[0]].bits - op.lsbs

    def sum_read(self, op: Lookup) -> TensorOp:
        """What a lookup reads, before low bits are dropped."""
        read = self.encoding.operations[op.args[0]]
        return self.encoding.operations[read.args[0]] if isinstance(read, Drop | Truncate) else read

    def table_ms(self, bits: int) -> float:
        """Milliseconds of a table of `bits` bits in this circuit."""
        return self.prices.table(bits, self._is_precise(bits))

    def round_ms(self, op: Truncate) -> float:
        """Milliseconds of a rounding in this circuit, an element."""
        return self.prices.rounding(op.bits, op.lsbs, self._is_precise(ROUNDING))

    def milliseconds(self, op: TensorOp) -> float:
        """Of all elements of an operation: in their last turn some threads may idle."""
        turns = -(-op.size // self.prices.threads) * self.prices.threads
        if isinstance(op, Lookup):
            return turns * self.table_ms(self.bits_read(op))
        return turns * self.round_ms(op) if isinstance(op, Truncate) else 0.0

    def total_ms(self) -> float:
        """Of a run."""
        return sum(self.milliseconds(op) for op in self.encoding.operations)

    @cached_property
    def _reads(self) -> dict[int, dict[str, _Read]]:
        """In every component, the most precise read, by kind of reader."""
        operations, widths = self.encoding.operations, self.encoding.widths
        reads = [
            (self.roots[port.operation], "rounding", port.operation, 0)
            for port in self.encoding.outputs
        ]
        for i, op in enumerate(operations):
            if isinstance(op, Lookup):
                reads.append((self.roots[op.args[0]], "table", op.args[0], op.lsbs))
            elif isinstance(op, Truncate):
                reads.append((self.roots[i], "rounding", op.args[0], 0))
        nothing = _Read(0.0, -1)
        of_component: dict[int, dict[str, _Read]] = defaultdict(dict)
        for root, reader, i, lsbs in reads:
            needed = _Read(widths[i] - lsbs + math.log2(max(1.0, self.noise[i])) / 2, i)
            known = of_component[root]
            known[reader] = max(known.get(reader, nothing), needed)
        return dict(of_component)

    def _of_widths(self) -> dict[int, dict[str, _Read]]:
        """For every width of table, the most precise read of its results, by kind of reader.

        Roundings write into what they read: theirs is the precision of what follows them.
        """
        widths, nothing = self.encoding.widths, _Read(0.0, -1)
        of_width: dict[int, dict[str, _Read]] = defaultdict(dict)
        for i, op in enumerate(self.encoding.operations):
            if isinstance(op, Lookup):
                known = of_width[self.bits_read(op)]
                for reader, found in self._reads.get(self.roots[i], {}).items():
                    known[reader] = max(known.get(reader, nothing), found)
            elif isinstance(op, Truncate):
                known = of_width[ROUNDING]
                found = _Read(widths[i] + math.log2(max(1.0, self.noise[i])) / 2, i)
                known["rounding"] = max(known.get("rounding", nothing), found)
        return dict(of_width)

    def _is_precise(self, partition: int) -> bool:
        precision = {reader: read.needed for reader, read in self.reads.get(partition, {}).items()}
        if partition == ROUNDING:
            return precision.get("rounding", 0.0) > self.prices.round_precise_from
        return self.prices.is_precise(partition, precision)

    def demanding(self) -> list[dict[str, int]]:
        """By width of table, which of them alone make it precise, and the next width that is.

        By tag. Read at that width, they leave the cheap parameters to the others of their own.
        """
        precise = [b for b in sorted(self.reads) if b != ROUNDING and self._is_precise(b)]
        found = []
        for bits, wider in itertools.pairwise(precise):
            tags = {
                op.tag
                for i, op in enumerate(self.encoding.operations)
                if isinstance(op, Lookup) and self.bits_read(op) == bits and self._demands(i, bits)
            }
            found.append(dict.fromkeys(tags, wider))
        return found

    def _demands(self, operation: int, bits: int) -> bool:
        """Whether the result of a table of `bits` bits needs to be precise."""
        reads = self._reads.get(self.roots[operation], {})
        return self.prices.is_precise(bits, {reader: r.needed for reader, r in reads.items()})

    def dear(self) -> tuple[Dear, ...]:
        """The widths of tables with precise parameters, and the sums to blame."""
        found = []
        for bits, reads in sorted(self.reads.items()):
            if bits == ROUNDING:
                continue
            blamed = [
                (read.needed - limit, limit, read.operation)
                for reader, read in reads.items()
                if read.needed > (limit := self.prices.precise_limit(bits, reader))
            ]
            if blamed:
                _, limit, i = max(blamed)
                op, width = self.encoding.operations[i], self.encoding.widths[i]
                bears = 4.0 ** (limit - width)
                found.append(Dear(bits, op.layer, width, self.noise[i], bears))
        return tuple(found)

    def _sizes(self, partition: int) -> KeySizes:
        precise = self._is_precise(partition)
        if partition == ROUNDING:
            return self.prices.rounding_key_sizes(precise)
        return self.prices.key_sizes(partition, precise)

    def key_bytes(self) -> int:
        """Evaluation keys as they are sent: seeds stand for all that is random.

        One bootstrap key for each width of table and one for roundings; a keyswitch key for each
        pair of (layout of a component, width that reads it) and for each pair of (width that
        writes, layout that it must become), big * levels * 8 bytes.
        """
        switches, conversions = self._keyswitches()
        sent = sum(self._sizes(s).big * self._sizes(t).keyswitch * 8 for s, t in switches)
        sent += sum(self._sizes(source).big * 8 for source, _ in conversions)
        return sent + sum(self.key_bytes_by_bit_width().values())

    def key_bytes_by_bit_width(self) -> dict[int, int]:
        """The bootstrap keys among them, by width of table; that of roundings at 0."""
        return {p: self._sizes(p).sent_bytes for p in sorted(self._partitions())}

    def expanded_key_bytes(self) -> int:
        """The same keys as the server uses them, masks included."""
        switches, conversions = self._keyswitches()
        total = self._bootstrap_bytes()
        for source, target in switches:
            to = self._sizes(target)
            total += self._sizes(source).big * to.keyswitch * (to.small + 1) * 8
        for source, target in conversions:
            total += self._sizes(source).big * (self._sizes(target).big + 1) * 8
        return total

    def _keyswitches(self) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        writers, readers = self._ports_of_components
        switches, conversions = set(), set()
        for root, partitions in readers.items():
            written = writers.get(root) or partitions  # the client encrypts as it is read
            layout = ROUNDING if ROUNDING in partitions else min(written)
            if root not in writers:
                written = {layout}
            switches |= {(layout, partition) for partition in partitions}
            conversions |= {(writer, layout) for writer in written if writer != layout}
        return switches, conversions

    def _partitions(self) -> set[int]:
        _, readers = self._ports_of_components
        return {p for partitions in readers.values() for p in partitions}

    def _bootstrap_bytes(self) -> int:
        return sum(self._sizes(p).bootstrap_bytes for p in self._partitions())

    def peak_memory_bytes(self, of_keys: Estimate | None = None) -> int:
        """Process, keys, bootstrap keys once more in Fourier form, ciphertexts alive at once."""
        of_keys = of_keys or self
        keys = of_keys.expanded_key_bytes() + of_keys._bootstrap_bytes()
        ciphertexts = max(self.ciphertext_bytes_by_layer().values(), default=0)
        return PROCESS_BYTES + keys + ciphertexts

    @cached_property
    def _ports_of_components(self) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
        writers: dict[int, set[int]] = defaultdict(set)
        readers: dict[int, set[int]] = defaultdict(set)
        for i, op in enumerate(self.encoding.operations):
            if isinstance(op, Lookup):
                bits = self.bits_read(op)
                writers[self.roots[i]].add(bits)
                readers[self.roots[op.args[0]]].add(bits)
            elif isinstance(op, Truncate):
                readers[self.roots[i]].add(ROUNDING)
        return writers, readers

    def request_bytes(self) -> int:
        """Of what the client encrypts: of each ciphertext a seed and its body."""
        given = [p for p in self.encoding.inputs if not p.wired]
        return SEEDED_BYTES * sum(self.encoding.operations[p.operation].size for p in given)

    def reply_bytes(self) -> int:
        """Of what the client decrypts, whole ciphertexts."""
        return sum(
            self._ciphertext_bytes(p.operation) for p in self.encoding.outputs if not p.wired
        )

    def _ciphertext_bytes(self, index: int) -> int:
        """Of all elements of an operation: size * (dimension + 1) * 8."""
        writers, _ = self._ports_of_components
        written = writers.get(self.roots[index], ())
        dimension = max((self._sizes(w).big for w in written), default=0)
        return self.encoding.operations[index].size * (max(dimension, 1024) + 1) * 8

    def ciphertext_bytes_by_layer(self) -> dict[str, int]:
        """The most at once in each layer: size * (dimension + 1) * 8 over all still to be read."""
        last = {port.operation: len(self.encoding.operations) for port in self.encoding.outputs}
        for i, op in enumerate(self.encoding.operations):
            for arg in op.args:
                last[arg] = max(i, last.get(arg, 0))
        alive = 0
        peak: dict[str, int] = {}
        freed: dict[int, int] = defaultdict(int)
        for i, op in enumerate(self.encoding.operations):
            size = self._ciphertext_bytes(i)
            alive += size
            peak[op.layer] = max(peak.get(op.layer, 0), alive)
            freed[last.get(i, i)] += size
            alive -= freed.pop(i, 0)
        return peak


def squared_weights(encoding: Encoding) -> list[float]:
    """Per operation, the largest sum of squared weights from table results to one of its elements.

    What comes in on a wire is a table's result.
    """
    noise: list[float] = []
    for operation in encoding.operations:
        shapes = [encoding.operations[arg].shape for arg in operation.args]
        noise.append(operation.squared_weights([noise[arg] for arg in operation.args], shapes))
    return noise
