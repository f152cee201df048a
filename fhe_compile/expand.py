"""Integer program in, program of operations that TFHE has out: the passes in their order."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fhe_compile.bounds import Interval
from fhe_compile.cost import PriceList, load_prices
from fhe_compile.passes.common_values import merge_common_values
from fhe_compile.passes.dead_nodes import remove_dead_nodes
from fhe_compile.passes.fold_constants import fold_constants
from fhe_compile.passes.fuse_tables import fuse_tables
from fhe_compile.passes.sink_rounds import sink_rounds
from fhe_compile.products import ProductChoice, expand_products
from fhe_compile.program import Program

# A program can do without these; it only costs more. The others give it the form TFHE has.
OPTIONAL = ("fold_constants", "fuse_tables", "merge_common_values", "remove_dead_nodes")


@dataclass(frozen=True, eq=False)
class Expanded:
    """A program without products, ranges proved before expansion, and how products were done."""

    program: Program
    known: Mapping[str, Interval]
    choices: tuple[ProductChoice, ...]


def expand(
    program: Program, prices: PriceList | None = None, without: Collection[str] = ()
) -> Expanded:
    """Rewrite to what TFHE has; the outputs keep their names, shapes and integers.

    `without` leaves some of the `OPTIONAL` passes out, to see what they are worth.
    """
    before = (
        remove_dead_nodes,
        fold_constants,
        merge_common_values,
        sink_rounds,
        remove_dead_nodes,
        fuse_tables,
    )
    for rewrite in before:
        if rewrite.__name__ not in without:
            program = rewrite(program)
    program, known, choices = expand_products(program, prices or load_prices())
    for rewrite in (merge_common_values, remove_dead_nodes):
        if rewrite.__name__ not in without:
            program = rewrite(program)
    if "fuse_tables" not in without:
        program = fuse_tables(program, known)
    names = {node.name for node in program.nodes}
    known = {name: interval for name, interval in known.items() if name in names}
    return Expanded(program, known, tuple(choices))
