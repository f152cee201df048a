"""Part `table_attention`: attention's share of the standard model, by products and by tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.encrypted import Encrypted
from benchmarks.parts.digits import STANDARD, model
from benchmarks.render import percent, table
from benchmarks.runner import Bench, Part
from benchmarks.trained import TrainedModel
from torusformer.fhe_compile import plan

TABLE = "digits-table"
ATTENTION = ".attention"  # in the name of a layer; `attention_quant` is the residual branch's


def measured(trained: TrainedModel) -> dict[str, Any]:
    """Complexity of the whole and of attention, which has the same share of planned seconds."""
    found = Encrypted(trained.program).facts()
    rows = plan(trained.program).rows
    part = [r for r in rows if ATTENTION in r.layer and ".attention_quant" not in r.layer]
    share = sum(r.ms for r in part) / sum(r.ms for r in rows)
    return {
        "preset": trained.name,
        "accuracy": trained.accuracies["program"],
        **found,
        "attention_pbs": sum(r.pbs for r in part),
        "attention_share": round(share, 4),
        "attention_complexity": share * found["complexity"],
    }


def measure(bench: Bench) -> dict[str, Any]:
    """Both presets, compiled."""
    models = [model(bench, name) for name in (STANDARD, TABLE)]
    rows = [bench.keep(trained.key, measured, trained) for trained in models]
    products, tables = (row["attention_complexity"] for row in rows)
    whole = rows[0]["complexity"]
    return {
        "rows": rows,
        "share_of_standard": {
            "products": round(products / whole, 4), "tables": round(tables / whole, 4),
        },
        "complexity_ratio": round(tables / products, 4) if products else None,
    }  # fmt: skip


def render(result: Mapping[str, Any]) -> str:
    """A row a kind of attention."""
    head = ("preset", "accuracy", "PBS", "complexity", "of attention", "share")
    rows = [
        (r["preset"], percent(r["accuracy"]), r["pbs"], r["complexity"],
         r["attention_complexity"], percent(r["attention_share"]))
        for r in result["rows"]
    ]  # fmt: skip
    return f"{table(head, rows)}\n\nAttention, tables ÷ products: {result['complexity_ratio']}."


TABLE_ATTENTION = Part(
    "table_attention",
    "Table attention",
    "Scores looked up in learned tables of two 2-bit codes, in place of products of queries and "
    "keys; everything from queries to context is counted as attention.",
    measure,
    render,
)
