"""Random models over every operator: a small sample of what `tests.fuzz.generated` runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.drawn_models import NAMES
from tests.fuzz.generated import cause_of, simulated
from torusformer.fhe_compile import frontend
from torusformer.fhe_compile.frontend.elementwise import ELEMENTWISE
from torusformer.fhe_compile.frontend.endings import _LEFT_OUT

FOLDER = Path(frontend.__path__[0])
# Not drawn by themselves: they stand in every few models, or `quantized` draws them.
WITHIN = {"Cast", "Concat", "DepthToSpace", "DequantizeLinear", "Unsqueeze", "Shape"}


@pytest.mark.parametrize("i", range(3, len(NAMES), 14))
def test_a_random_model_is_exact_or_refused_by_name(i: int) -> None:
    result = simulated(NAMES[i], 700_000 + i).result
    assert result.outcome in ("exact", "refused", "large"), f"{result.again}\n{result.said}"
    assert result.outcome != "refused" or result.said


def test_every_operator_that_is_read_is_drawn() -> None:
    read = set(ELEMENTWISE) | _LEFT_OUT
    for file in ("combine.py", "layout.py", "quantizers.py"):
        for node in ast.walk(ast.parse((FOLDER / file).read_text())):
            if isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
                read.add(node.value.value)
    assert "ConvTranspose" in read and "Trunc" in read and "Resize" in read
    assert read - set(NAMES) - WITHIN == set()


def test_a_cause_names_no_model() -> None:
    said = "net (Conv): weights (3, 2, 1) in 2 groups for (1, 3, 4); use others"
    assert cause_of(said) == "weights N in N groups for N"
