"""Hostile files end in one sentence: some of what `make fuzz` runs, and the frame it runs in."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import KINDS, pool
from tests.fuzz.__main__ import main, seeds
from tests.fuzz.case import Case
from tests.fuzz.programs import VALUES, mutate_json
from torusformer import InputError

CASES = 500


@pytest.mark.slow
def test_nothing_hostile_is_a_fault() -> None:
    results = list(pool.run_cases(KINDS, seeds(list(KINDS), CASES, seed=1_000_000)))
    assert not [result for result in results if result.outcome == "fault"]
    assert len(results) == CASES
    refused = Counter(result.kind for result in results if result.outcome == "refused")
    assert refused.keys() == KINDS.keys()  # each kind meets what it is about


def test_a_case_does_not_change_those_after_it() -> None:
    before = repr(VALUES)
    for seed in range(300):
        draw, value = random.Random(seed), {"a": [1, {"b": 2}], "c": {}}
        for _ in range(8):
            mutate_json(value, draw)
        json.dumps(value)  # not of itself
    assert repr(VALUES) == before


def _refuse() -> None:
    raise InputError("no")


def _wrong() -> None:
    raise AssertionError("another answer")


CONDUCT = {
    "accepted": lambda: None,
    "refused": _refuse,
    "another answer": _wrong,
    "ZeroDivisionError": lambda: 1 // 0,
    "hung": lambda: time.sleep(60),
    "hung for": lambda: any(iter(int, 1)),
    "died": lambda: os.kill(os.getpid(), 9),
    "MiB": lambda: np.ones(400 << 17).sum(),
    "overflow": lambda: np.exp(np.array([1e9])),
}


def make(seed: int, folder: Path) -> Case:
    return Case("a case", list(CONDUCT.values())[seed])


def test_the_frame_tells_every_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "WAITING", 8.0)
    monkeypatch.setattr(pool, "SECONDS", 2.0)
    cases = [("frame", seed) for seed in range(len(CONDUCT))]
    results = sorted(pool.run_cases({"frame": make}, cases), key=lambda result: result.seed)
    for word, result in zip(CONDUCT, results, strict=True):
        if word in ("accepted", "refused"):
            assert result.outcome == word
        else:
            assert result.outcome == "fault"
            assert word in result.said


def test_a_fault_is_said_with_its_seed_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(KINDS, "frame", make)  # type: ignore[arg-type]
    assert main(["--kind", "frame", "--cases", "1", "--seed", "0", "--jobs", "1"]) == 0
    assert main(["--kind", "frame", "--cases", "1", "--seed", "3", "--jobs", "1"]) == 1
    assert "--kind frame --seed 3" in capsys.readouterr().err
