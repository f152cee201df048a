"""Part `scaling`: softmax against inhibitor attention as the sequence grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.attention import AttentionConfig, inhibitor_program, random_inputs, softmax_program
from benchmarks.encrypted import Encrypted
from benchmarks.render import table
from benchmarks.runner import Bench, Part

KINDS = {"softmax": softmax_program, "inhibitor": inhibitor_program}


def measure(bench: Bench) -> dict[str, Any]:
    """Both kinds at every length, run encrypted where that takes seconds."""
    rows = []
    for tokens in (2, 4) if bench.quick else (2, 4, 8, 16):
        config = AttentionConfig(tokens=tokens, head_dim=2, heads=1, score_bits=5)
        inputs = random_inputs(config, 0)
        for kind, build in KINDS.items():
            encrypted = Encrypted(build(config))
            key = f"{kind}.{tokens}"
            found = bench.keep(key, encrypted.facts)
            row = {"tokens": tokens, "attention": kind, **found}
            if tokens <= (2 if bench.quick else 8):
                row |= bench.keep(f"{key}.run", encrypted.run, inputs)
            rows.append(row)
    return {"head_dim": 2, "heads": 1, "bits": 4, "rows": rows}


def render(result: Mapping[str, Any]) -> str:
    """A row a length and kind."""
    head = ("T", "attention", "PBS", "complexity", "planned s", "seconds", "bit-exact")
    keys = ("tokens", "attention", "pbs", "complexity", "predicted_seconds", "seconds", "bit_exact")
    return table(head, [[row.get(key) for key in keys] for row in result["rows"]])


SCALING = Part(
    "scaling",
    "Softmax against inhibitor attention",
    "The scaling experiment of arXiv 2310.02041: one head of dimension 2, 4-bit inputs, attention "
    "alone.",
    measure,
    render,
)
