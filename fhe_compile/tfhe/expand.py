"""Integer program in, program of operations that TFHE has out: the passes in their order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torusformer.fhe_compile.passes.centre_choices import centre_choices
from torusformer.fhe_compile.passes.common_factors import remove_common_factors
from torusformer.fhe_compile.passes.common_values import merge_common_values
from torusformer.fhe_compile.passes.dead_channels import remove_dead_channels
from torusformer.fhe_compile.passes.dead_nodes import remove_dead_nodes
from torusformer.fhe_compile.passes.expand_argmax import expand_argmax
from torusformer.fhe_compile.passes.expand_max import expand_max
from torusformer.fhe_compile.passes.fold_constants import fold_constants
from torusformer.fhe_compile.passes.fuse_tables import fuse_tables
from torusformer.fhe_compile.passes.narrow_clips import narrow_clips
from torusformer.fhe_compile.passes.products import ProductChoice, expand_products
from torusformer.fhe_compile.passes.refresh import PRECISE, refresh_outputs
from torusformer.fhe_compile.passes.sink_rounds import sink_rounds
from torusformer.fhe_compile.passes.split_concats import split_concats
from torusformer.fhe_compile.passes.tile_products import MEMORY_LIMIT, tile_products
from torusformer.fhe_compile.prices.cost import PriceList, load_prices
from torusformer.fhe_compile.program.nodes import Program
from torusformer.fhe_compile.program.ranges import Interval
from torusformer.fhe_compile.tfhe.encode import encode
from torusformer.fhe_compile.tfhe.estimate import Estimate

# A program can do without these; it only costs more. The others give it the form TFHE has.
OPTIONAL = (
    "centre_choices",
    "fold_constants",
    "fuse_tables",
    "narrow_clips",
    "merge_common_values",
    "remove_common_factors",
    "remove_dead_channels",
    "remove_dead_nodes",
    "refresh_outputs",
    "split_concats",
)


@dataclass(frozen=True, eq=False)
class Expanded:
    """A program without products, ranges proved before expansion, and how products were done."""

    program: Program
    known: Mapping[str, Interval]
    choices: tuple[ProductChoice, ...]


def expand(
    program: Program,
    prices: PriceList | None = None,
    without: Collection[str] = (),
    memory_limit: int = MEMORY_LIMIT,
    always: Collection[str] = (),
) -> Expanded:
    """Rewrite to what TFHE has; the outputs keep their names, shapes and integers.

    `without` leaves some of the `OPTIONAL` passes out, to see what they are worth. No ciphertexts
    of a product's terms fill more than `memory_limit` bytes at once. `refresh_outputs` happens
    where this program is cheaper for it, or in any case if `always` names it.
    """
    before = (
        remove_dead_nodes,
        fold_constants,
        merge_common_values,
        remove_dead_channels,
        remove_common_factors,
        split_concats,
        sink_rounds,
        remove_dead_nodes,
        centre_choices,
    )
    for rewrite in before:
        if rewrite.__name__ not in without:
            program = rewrite(program)
    prices = prices or load_prices()
    if "fuse_tables" not in without:
        program = fuse_tables(program, prices=prices)
    program = tile_products(program, memory_limit)
    known: dict[str, Interval] = {}
    if "narrow_clips" not in without:
        program, known = narrow_clips(program, prices)
    program, known = expand_max(*expand_argmax(program, known))
    program, known, choices = expand_products(program, prices, known)
    for rewrite in (merge_common_values, remove_dead_nodes):
        if rewrite.__name__ not in without:
            program = rewrite(program)
    if "fuse_tables" not in without:
        program = fuse_tables(program, known, prices)
    names = {node.name for node in program.nodes}
    known = {name: interval for name, interval in known.items() if name in names}
    if "refresh_outputs" not in without:
        found = [refresh_outputs(program, known), refresh_outputs(program, known, PRECISE)]
        if "refresh_outputs" in always:
            program, known = found[-1]
        else:
            program, known = _cheapest([(program, known), *found], prices)
    return Expanded(program, known, tuple(choices))


Proved = tuple[Program, dict[str, Interval]]


def _cheapest(ways: Sequence[Proved], prices: PriceList) -> Proved:
    """The one whose bootstraps take the least time; the first if it makes no difference."""
    different = [way for way in ways[1:] if len(way[0].nodes) > len(ways[0][0].nodes)]
    if not different:
        return ways[0]
    return min([ways[0], *different], key=lambda way: Estimate(encode(*way), prices).total_ms())
