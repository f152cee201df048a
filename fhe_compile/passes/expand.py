"""Integer program in, programs of operations that TFHE has out: the passes in their order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from torusformer import InputError
from torusformer.fhe_compile.passes.centre_rows import centre_rows
from torusformer.fhe_compile.passes.common_factors import remove_common_factors
from torusformer.fhe_compile.passes.common_values import merge_common_values
from torusformer.fhe_compile.passes.dead_channels import remove_dead_channels
from torusformer.fhe_compile.passes.dead_nodes import remove_dead_nodes
from torusformer.fhe_compile.passes.expand_argmax import expand_argmax
from torusformer.fhe_compile.passes.expand_max import expand_max
from torusformer.fhe_compile.passes.fold_constants import fold_constants
from torusformer.fhe_compile.passes.fuse_tables import fuse_tables
from torusformer.fhe_compile.passes.hoist_slices import hoist_slices
from torusformer.fhe_compile.passes.narrow_clips import narrow_clips
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.products import expand_products
from torusformer.fhe_compile.passes.refresh import (
    refresh_outputs,
    refresh_selected,
    refresh_shared,
    refresh_sums,
)
from torusformer.fhe_compile.passes.refresh_wires import refresh_wires
from torusformer.fhe_compile.passes.sink_rounds import sink_rounds
from torusformer.fhe_compile.passes.split_columns import split_columns
from torusformer.fhe_compile.passes.split_concats import split_concats
from torusformer.fhe_compile.passes.split_outputs import split_outputs
from torusformer.fhe_compile.passes.tile_products import tile_products
from torusformer.fhe_compile.program.nodes import Program

Rewrite = Callable[[Program, PassOptions], Program]
PLAIN = ""  # the way without trials


@dataclass(frozen=True)
class Pass:
    """One rewrite, and what happens without it.

    `needed`: the program lacks the form that TFHE has. `optional`: it only costs more. `trial`: it
    is taken only where the circuit gets cheaper for it, instead of the trials before it.
    """

    rewrite: Rewrite
    kind: Literal["needed", "optional", "trial"]

    @property
    def name(self) -> str:
        """That of the function."""
        return self.rewrite.__name__


PASSES = (
    Pass(remove_dead_nodes, "optional"),
    Pass(fold_constants, "optional"),
    Pass(merge_common_values, "optional"),
    Pass(remove_dead_channels, "optional"),
    Pass(remove_common_factors, "optional"),
    Pass(split_concats, "optional"),
    Pass(sink_rounds, "needed"),
    Pass(remove_dead_nodes, "optional"),
    Pass(centre_rows, "optional"),
    Pass(fuse_tables, "optional"),
    Pass(tile_products, "needed"),
    Pass(narrow_clips, "optional"),
    Pass(expand_argmax, "needed"),
    Pass(expand_max, "needed"),
    Pass(expand_products, "needed"),
    Pass(merge_common_values, "optional"),
    Pass(remove_dead_nodes, "optional"),
    Pass(fuse_tables, "optional"),
    Pass(split_columns, "optional"),
    Pass(refresh_shared, "trial"),
    Pass(refresh_selected, "trial"),
    Pass(refresh_outputs, "trial"),
    Pass(refresh_sums, "trial"),
    Pass(split_outputs, "trial"),
)
# Before a program is written: whatever bootstraps cost.
AT_LOWERING: tuple[Callable[[Program], Program], ...] = (hoist_slices,)
# After `PASSES`, where functions share keys.
ON_WIRES: tuple[Rewrite, ...] = (refresh_wires,)
OPTIONAL = tuple(dict.fromkeys(each.name for each in PASSES if each.kind != "needed"))


def expand(
    program: Program, options: PassOptions, without: Collection[str] = ()
) -> dict[str, Program]:
    """Ways to rewrite a program to what TFHE has; outputs keep names, shapes and integers.

    The first, `PLAIN`, is without trials, the others with one each, by its name, where that changes
    anything. `without` leaves some of the `OPTIONAL` passes out, to see what they are worth.

    Raises:
        InputError: there is no optional pass of a name in `without`.
    """
    if unknown := set(without) - set(OPTIONAL):
        raise InputError(
            f"there is no optional pass {min(unknown)!r}; there are {', '.join(sorted(OPTIONAL))}"
        )
    ways = {PLAIN: program}
    for each in PASSES:
        if each.name in without:
            continue
        if each.kind == "trial":
            tried = each.rewrite(ways[PLAIN], options)
            if len(tried.nodes) != len(ways[PLAIN].nodes):
                ways[each.name] = tried
        else:
            ways = {name: each.rewrite(way, options) for name, way in ways.items()}
    return ways
