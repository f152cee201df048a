"""A chance of failure a bootstrap in, that of a whole inference out; and its two named modes.

`exact`: below Concrete's price cliff at 2**-20 a smaller chance is nearly free, so as good as
never. `fast`: on the cheap side of the cliff, a wrong answer now and then.

>>> f"{failure_probability(1024, parse_p_error('fast')):.5f}"
'0.00098'
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from torusformer import InputError

EXACT = 2.0**-64
FAST = 2.0**-20
MODES: Mapping[str, float] = MappingProxyType({"exact": EXACT, "fast": FAST})
_POWER_OF_TWO = re.compile(r"2(?:\*\*|\^)-(\d{1,3})")


def parse_p_error(text: str | None) -> float:
    """The chance that one bootstrap is wrong: "exact", "fast", "0.001", "1e-6" or "2**-40".

    Nothing said is "exact".
    """
    text = text or "exact"
    if text in MODES:
        return MODES[text]
    if power := _POWER_OF_TWO.fullmatch(text):
        return check_p_error(2.0 ** -int(power[1]))
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(
            f"p_error is {text!r}; it is exact, fast or a number between 0 and 1, say 2**-40"
        ) from error
    return check_p_error(value)


def check_p_error(p_error: float) -> float:
    """The same, if it is a probability that something can fail with."""
    if not 0 < p_error < 1:
        raise InputError(f"p_error is {p_error}; it is a probability between 0 and 1, say 2**-40")
    return p_error


def failure_probability(bootstraps: int, p_error: float) -> float:
    """1 - (1 - p_error)**bootstraps: the chance that any bootstrap of a run is wrong.

    An upper bound of a wrong answer: a wrong step may be rounded away. Exact for tiny p_error.
    """
    return -math.expm1(bootstraps * math.log1p(-p_error))


def show_p_error(p_error: float) -> str:
    """For people, with the name of a mode.

    >>> show_p_error(EXACT), show_p_error(2.0**-40), show_p_error(0.001)
    ('2^-64 (exact)', '2^-40', '1.0e-03')
    """
    fraction, exponent = math.frexp(p_error)
    text = f"2^{exponent - 1}" if fraction == 0.5 else f"{p_error:.1e}"
    names = [name for name, value in MODES.items() if value == p_error]
    return f"{text} ({names[0]})" if names else text
