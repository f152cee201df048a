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
from torusformer.fhe_compile.passes.refresh_wires import refresh_wires
from torusformer.fhe_compile.prices.cost import PriceList, load_prices
from torusformer.fhe_compile.prices.failure import EXACT, check_p_error
from torusformer.fhe_compile.program.nodes import Port, Program
from torusformer.fhe_compile.tfhe.encode import encode
from torusformer.fhe_compile.tfhe.estimate import Estimate
from torusformer.fhe_compile.tfhe.expand import Expanded, expand
from torusformer.fhe_compile.tfhe.plan import Plan, plan_encoded
from torusformer.fhe_compile.tfhe.steps import Encoding

# Narrow tables laid out as wide as logits run a quarter slower than the plan says, measured on
# decoders: Concrete gives them parameters beyond the two sets of the price list.
WIDE_LAYOUT_PENALTY = 1.1


@dataclass(frozen=True, eq=False)
class Function:
    """One function of a module, as it is traced, and what a run of it costs."""

    program: Program
    expanded: Expanded
    encoding: Encoding
    plan: Plan


@dataclass(frozen=True, eq=False)
class Functions:
    """All functions of a module, planned together, and the wires between them."""

    functions: Mapping[str, Function]
    wires: tuple[Wire, ...]


def plan_function(program: Program, prices: PriceList, p_error: float = EXACT) -> Function:
    """A program by itself, with parameters of its own."""
    expanded = expand(program, prices)
    encoding = encode(expanded.program, expanded.known)
    return Function(program, expanded, encoding, plan_encoded(expanded, encoding, prices, p_error))


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
    # All or none: what pays in one function alone does not where others decide its parameters.
    plain, fresh = (
        _encoded(programs, feedback, wired, prices, refresh=how) for how in (False, True)
    )
    fresher = fresh.estimate.total_ms() < WIDE_LAYOUT_PENALTY * plain.estimate.total_ms()
    expanded, encodings, wires, module = fresh if fresher else plain
    return Functions(
        {
            name: Function(
                program,
                expanded[name],
                encodings[name],
                plan_encoded(expanded[name], encodings[name], prices, p_error, module),
            )
            for name, program in programs.items()
        },
        wires,
    )


class _Together(NamedTuple):
    """One way to do all functions of a module, and what it costs."""

    expanded: Mapping[str, Expanded]
    encodings: Mapping[str, Encoding]
    wires: tuple[Wire, ...]
    estimate: Estimate


def _encoded(
    programs: Mapping[str, Program],
    feedback: Mapping[str, str],
    wired: Mapping[str, Mapping[str, Port]],
    prices: PriceList,
    *,
    refresh: bool,
) -> _Together:
    """Every function expanded and encoded, the wires, and what all of them cost together.

    With `refresh`, what is read precisely is looked up once more in every function.
    """
    without, always = ((), ("refresh_outputs",)) if refresh else (("refresh_outputs",), ())
    expanded = {
        name: refresh_wires(
            expand(program, prices, without, always=always), wired[name], one_hot=refresh
        )
        for name, program in programs.items()
    }
    encodings = {
        name: encode(found.program, found.known, wired[name]) for name, found in expanded.items()
    }
    wires = wires_between(encodings, feedback)
    whole, encodings = share_layouts(encodings, wires)
    return _Together(expanded, encodings, wires, Estimate(whole, prices))
