"""Integer program in, program of operations that TFHE has out: the passes in their order."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, eq=False)
class Expanded:
    """A program without products, ranges proved before expansion, and how products were done."""

    program: Program
    known: Mapping[str, Interval]
    choices: tuple[ProductChoice, ...]


def expand(program: Program, prices: PriceList | None = None) -> Expanded:
    """Rewrite to what TFHE has; the outputs keep their names, shapes and integers."""
    program = fold_constants(remove_dead_nodes(program))
    program = sink_rounds(merge_common_values(program))
    program = fuse_tables(remove_dead_nodes(program))
    program, known, choices = expand_products(program, prices or load_prices())
    program = fuse_tables(remove_dead_nodes(merge_common_values(program)), known)
    names = {node.name for node in program.nodes}
    known = {name: interval for name, interval in known.items() if name in names}
    return Expanded(program, known, tuple(choices))
