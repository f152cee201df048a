"""A few of the kills that `python -m tests.fuzz.kills` makes by the hundred."""

from pathlib import Path

import numpy as np

from tests.fuzz.kills import LINES, Place, kill_at_random
from tests.programs import Builder
from torusformer.fhe_compile import save_program
from torusformer.fhe_compile.program.nodes import Port


def test_compile_killed_at_random_runs_again(tmp_path: Path) -> None:
    b = Builder(Port("x", (1, 2), 0, 7, np.array(0.5)))
    b.table("act", "act", "x", lambda n: n // 2)
    save_program(b.program("act"), tmp_path / "program.onnx")
    *_, tally = kill_at_random(Place(tmp_path), LINES["compile"], moments=2, seed=1)
    assert tally.killed == 2
    assert tally.faults == []
