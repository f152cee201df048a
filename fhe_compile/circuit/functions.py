"""Integer programs in, the functions of one module out: planned together, and their wires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torusformer.fhe_compile.circuit.wires import (
    Wire,
    share_layouts,
    wired_ports,
    wires_between,
)
from torusformer.fhe_compile.passes.expand import ON_WIRES, PLAIN, expand
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.refresh import (
    refresh_selected,
    refresh_shared,
    refresh_sums,
)
from torusformer.fhe_compile.prices.cost import PriceList, load_prices
from torusformer.fhe_compile.prices.failure import EXACT, check_p_error
from torusformer.fhe_compile.program.nodes import Port, Program
from torusformer.fhe_compile.tfhe.encode import encode
from torusformer.fhe_compile.tfhe.encoding import Encoding
from torusformer.fhe_compile.tfhe.estimate import Estimate
from torusformer.fhe_compile.tfhe.plan import Plan, planned
from torusformer.fhe_compile.tfhe.read_wider import read_wider

# Narrow tables laid out as wide as logits run a quarter slower than the plan says, measured on
# decoders: Concrete gives them parameters beyond the two sets of the price list.
WIDE_LAYOUT_PENALTY = 1.1


@dataclass(frozen=True, eq=False)
class Functions:
    """All functions of a module, planned together, and the wires between them."""

    functions: Mapping[str, Plan]
    wires: tuple[Wire, ...]


def plan_module(
    programs: Mapping[str, Program],
    feedback: Mapping[str, str] | None = None,
    prices: PriceList | None = None,
    p_error: float = EXACT,
) -> Functions:
    """Every function with its plan, priced with the parameters that all of them share.

    `feedback` maps names of outputs to names of inputs that they go to.
    """
    prices = prices or load_prices(p_error=check_p_error(p_error))
    feedback = feedback or {}
    wired = wired_ports(programs, feedback)
    ways = {
        name: expand(program, PassOptions(prices, wired=frozenset(wired[name])))
        for name, program in programs.items()
    }
    # All or none: what pays in one function alone does not where others decide its parameters.
    plain = _together(_all_by(PLAIN, ways), feedback, wired, prices)
    fresh = [
        _together(_all_by(trial, ways), feedback, wired, prices, fresh_indices=True)
        for trial in (
            refresh.__name__ for refresh in (refresh_shared, refresh_selected, refresh_sums)
        )
    ]
    found = min(fresh, key=lambda way: way.whole.total_ms())
    if found.whole.total_ms() >= WIDE_LAYOUT_PENALTY * plain.whole.total_ms():
        found = plain
    if not any(wired.values()):  # functions that hand each other nothing: lengths of one model
        trials = dict.fromkeys(name for way in ways.values() for name in way if name != PLAIN)
        alone = (_together(_all_by(trial, ways), feedback, wired, prices) for trial in trials)
        found = min([found, *alone], key=lambda way: way.whole.total_ms())
    for wider in reversed(found.whole.demanding()):
        tried = found.read_wider(wider, feedback, wired, prices)
        if tried.whole.total_ms() < found.whole.total_ms():
            found = tried
    functions = {}
    for name, program in programs.items():
        estimate = Estimate(found.encodings[name], prices, found.whole)
        functions[name] = planned(program, found.expanded[name], estimate, p_error, found.whole)
    return Functions(functions, found.wires)


def _all_by(trial: str, ways: Mapping[str, Mapping[str, Program]]) -> dict[str, Program]:
    """Every function with this trial, where that changes it."""
    return {name: found.get(trial, found[PLAIN]) for name, found in ways.items()}


class _Together(NamedTuple):
    """One way to do all functions of a module, and what it costs."""

    expanded: Mapping[str, Program]
    encodings: Mapping[str, Encoding]
    wires: tuple[Wire, ...]
    whole: Estimate

    def read_wider(
        self,
        bits: Mapping[str, int],
        feedback: Mapping[str, str],
        wired: Mapping[str, Mapping[str, Port]],
        prices: PriceList,
    ) -> _Together:
        """The same where tables with these tags read at least so many bits."""
        expanded = {name: read_wider(program, bits) for name, program in self.expanded.items()}
        return _encoded(expanded, feedback, wired, prices)


def _together(
    expanded: Mapping[str, Program],
    feedback: Mapping[str, str],
    wired: Mapping[str, Mapping[str, Port]],
    prices: PriceList,
    *,
    fresh_indices: bool = False,
) -> _Together:
    """Every function encoded, the wires, and what all of them cost together."""
    for rewrite in ON_WIRES:
        expanded = {
            name: rewrite(
                program,
                PassOptions(prices, wired=frozenset(wired[name]), fresh_indices=fresh_indices),
            )
            for name, program in expanded.items()
        }
    return _encoded(expanded, feedback, wired, prices)


def _encoded(
    expanded: Mapping[str, Program],
    feedback: Mapping[str, str],
    wired: Mapping[str, Mapping[str, Port]],
    prices: PriceList,
) -> _Together:
    encodings = {name: encode(program, wired[name]) for name, program in expanded.items()}
    wires = wires_between(encodings, feedback)
    whole, encodings = share_layouts(encodings, wires)
    return _Together(expanded, encodings, wires, Estimate(whole, prices))
