"""Chances of failure: what a user types, and what follows for a whole inference."""

import pytest

from torusformer import InputError
from torusformer.fhe_compile.prices.failure import (
    EXACT,
    FAST,
    failure_probability,
    parse_p_error,
    show_p_error,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, 2**-64),
        ("exact", 2**-64),
        ("fast", 2**-20),
        ("2**-40", 2**-40),
        ("2^-13", 2**-13),
        ("0.001", 1e-3),
        ("1e-6", 1e-6),
    ],
)
def test_ways_to_say_it(text: str | None, value: float) -> None:
    assert parse_p_error(text) == value


@pytest.mark.parametrize("text", ["never", "", "0", "1", "-1e-9", "nan", "inf", "2**-0", "2**-x"])
def test_what_is_no_probability(text: str) -> None:
    if not text:  # nothing said
        assert parse_p_error(text) == EXACT
        return
    with pytest.raises(InputError, match="between 0 and 1"):
        parse_p_error(text)


def test_of_a_whole_run() -> None:
    assert failure_probability(1, 0.25) == pytest.approx(0.25)
    assert failure_probability(3, 0.5) == pytest.approx(1 - 0.5**3)
    assert failure_probability(0, FAST) == 0
    # n p to first order, where a plain 1 - (1 - p)**n would be zero
    assert failure_probability(1000, EXACT) == pytest.approx(1000 * 2**-64)
    assert 1 - (1 - EXACT) ** 1000 == 0


def test_shown_for_people() -> None:
    assert show_p_error(EXACT) == "2^-64 (exact)"
    assert show_p_error(FAST) == "2^-20 (fast)"
    assert show_p_error(0.001) == "1.0e-03"
