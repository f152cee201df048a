"""Tables and sums of samples in, which of their columns bear narrower reads alike out.

A way to read a table narrower (`narrow_ways`) changes many entries of some columns and none of
others, whose sums stay close together. So the dearest tables are cut into groups of columns, by how
much is changed there, each with ways of its own; groups that end with the same way are joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.passes.narrow_sums import Narrowing, narrowed_table
from torusformer.fhe_compile.passes.split_columns import cut, name_of_group
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.antiperiod import bits_read
from torusformer.fhe_compile.program.nodes import IntArray, Program, Table
from torusformer.fhe_compile.tfhe.answers_kept import AnswersKept

MOST_GROUPS = 8  # of a table
FEWEST = 4  # columns of a group
SHARE = 0.05  # of all tables' time that one must take, to be cut
Groups = dict[str, list[IntArray]]


def sensitive_columns(program: Program, answers: AnswersKept, prices: PriceList) -> Groups:
    """The dear tables, each with groups of columns: those first that bear the least."""
    tables = [node for node in program.nodes if isinstance(node, Table)]
    ranges = {node.name: program.ranges[node.inputs[0]] for node in tables}
    bits = {n.name: bits_read(n.values, n.offset, ranges[n.name]) for n in tables}
    taken = {name: prices.table(bits[name]) * x.lo.size for name, x in ranges.items()}
    groups = Groups()
    for node in tables:
        x, width = ranges[node.name], bits[node.name]
        columns = x.shape[-1] if x.shape else 1
        count = min(MOST_GROUPS, columns // FEWEST)
        if count < 2 or width < 3 or taken[node.name] < SHARE * sum(taken.values()):
            continue
        seen = answers.sums[node.inputs[0]]
        exact, lost = node.evaluate([seen]), np.zeros(columns)
        for narrower in range(max(2, width - 4), width):
            (made,) = narrowed_table(node, x, Narrowing(narrower, "wrapped"), seen)
            off = np.square(made.evaluate([seen]) - exact, dtype=np.float64)
            changed = off.reshape(-1, columns).mean(axis=0)
            lost += changed / max(1e-30, changed.mean())
        groups[node.name] = np.array_split(np.argsort(-lost, kind="stable"), count)
    return groups


@dataclass(frozen=True)
class Joined:
    """A program cut into as few tables as their ways are different, and the way of each."""

    program: Program
    chosen: Mapping[str, Narrowing]


def join(program: Program, groups: Groups, chosen: Mapping[str, Narrowing]) -> Joined:
    """Of the program before it was cut into `groups`, and what was `chosen` for each of them."""
    ways = dict(chosen)
    fewer = Groups()
    for name, parts in groups.items():
        found: dict[Narrowing | None, list[IntArray]] = {}
        for g, columns in enumerate(parts):
            found.setdefault(ways.pop(name_of_group(name, g), None), []).append(columns)
        if len(found) > 1:
            fewer[name] = [np.sort(np.concatenate(each)) for each in found.values()]
        for g, way in enumerate(found):
            if way is not None:
                ways[name_of_group(name, g) if len(found) > 1 else name] = way
    return Joined(cut(program, fewer), ways)
