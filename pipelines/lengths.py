"""Programs of one model by length in, a deployment of them all under one set of keys out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torusformer.fhe_compile import Plan, Program
from torusformer.fhe_compile.circuit.circuit import Module, compile_functions
from torusformer.fhe_compile.circuit.functions import Functions, plan_module
from torusformer.fhe_compile.deployment.deployment import save_lengths_deployment
from torusformer.fhe_compile.deployment.lengths import length_name
from torusformer.fhe_compile.deployment.shared_keys import SharedKeys
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.models.tokenizer import Tokenizer
from torusformer.progress import Progress
from torusformer.tables import table

_PROGRAM = re.compile(r"program\.([1-9]\d{0,4})\.onnx")


def program_files(folder: Path) -> dict[int, Path]:
    """The programs of a folder by length, shortest first: `program.8.onnx` is of eight tokens."""
    found = ((_PROGRAM.fullmatch(path.name), path) for path in folder.iterdir())
    named = {int(match[1]): path for match, path in found if match}
    return dict(sorted(named.items()))


def plan_lengths(
    programs: Mapping[int, Program], prices: PriceList, p_error: float
) -> tuple[Functions, dict[int, Plan]]:
    """All lengths planned together, since they share keys; and the plan of each."""
    planned = plan_module({length_name(n): p for n, p in programs.items()}, None, prices, p_error)
    return planned, {n: planned.functions[length_name(n)] for n in programs}


def lengths_to_json(plans: Mapping[int, Plan]) -> dict[str, Any]:
    """The plan of the longest, and in short of each `by_length`."""
    by_length = {
        str(n): {
            "pbs_total": made.pbs_total,
            "predicted_seconds": round(made.predicted_seconds, 3),
        }
        for n, made in plans.items()
    }
    return {**plans[max(plans)].to_json(), "by_length": by_length}


def lengths_text(plans: Mapping[int, Plan]) -> str:
    """The plan of the longest, and a row a length."""
    rows = [(n, made.pbs_total, f"{made.predicted_seconds:.1f}") for n, made in plans.items()]
    longest = max(plans)
    costs = table(("length", "bootstraps", "seconds"), rows)
    return (
        f"{plans[longest].table()}\n\nof {longest} pieces; keys are those of all lengths\n\n{costs}"
    )


def compile_lengths(
    planned: Functions,
    folder: Path,
    tokenizer: Tokenizer,
    key: Path | None = None,
    keys: SharedKeys | None = None,
) -> Module:
    """Compile all lengths to one module and write it into `folder`, the tokenizer too.

    `key` is a PEM file to sign with; `keys` are those of another deployment.
    """
    with Progress("compile"):
        module = compile_functions(planned, keys=keys and keys.restriction)
        save_lengths_deployment(module, folder, key, keys)
    tokenizer.save(folder)
    return module
