"""What a pass may want to know beside the program: prices, limits, what passes between functions.

Every pass is a function `(program, options) -> program`; one that needs no options may be called
without.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torusformer.fhe_compile.prices.cost import PriceList, load_prices

MEMORY_LIMIT = 256 * 2**20  # bytes


@dataclass(frozen=True)
class PassOptions:
    """What passes decide by.

    `prices` of bootstraps, by default those of `load_prices`. No ciphertexts of a product's terms
    fill more than `memory_limit` bytes at once. `wired` names outputs that another function takes
    in as ciphertexts; with `fresh_indices`, one-hot ones among them get a table of their own.
    """

    prices: PriceList = field(default_factory=load_prices)
    memory_limit: int = MEMORY_LIMIT
    wired: frozenset[str] = frozenset()
    fresh_indices: bool = False
