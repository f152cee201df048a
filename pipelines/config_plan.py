"""A configuration of a foreign model and bits in, what its circuit costs out: no weights needed.

`ConfigPlan` says what `fhe_compile.tfhe.plan.Plan` says, of a model that nobody has to have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torusformer import InputError
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.prices.failure import failure_probability, show_p_error
from torusformer.fhe_compile.tfhe.plan import MAXIMUM_BITS, describe_prices
from torusformer.fhe_compile.tfhe.plan_rows import Costs, PlanRow
from torusformer.models.config import ModelConfig
from torusformer.models.foreign.shapes import Shape
from torusformer.pipelines.config_bits import TERNARY_SHARE, PlannedBits
from torusformer.pipelines.config_blocks import Blocks
from torusformer.pipelines.skeleton import Skeleton
from torusformer.pipelines.skeleton_products import Multiplier
from torusformer.tables import table

MOST_TOKENS = 16_384
# Part of a layer's name -> the kind it is reported under; the first that is found.
KINDS: Mapping[str, str] = {
    "before_turn": "queries, keys, values",
    "query_quant": "queries, keys, values",
    "key_quant": "queries, keys, values",
    "value_quant": "queries, keys, values",
    ".query": "queries, keys, values",
    ".key": "queries, keys, values",
    ".value": "queries, keys, values",
    "weights": "softmax",
    "score_rounding": "softmax",
    "context_": "attention products",
    "attention_quant": "attention output",
    ".out": "attention output",
    "attention": "attention products",
    "norm": "norms",
    "embed": "embedding",
    "stream_quant": "embedding",
    "pooler": "pooler",
}
OTHER_KIND = "MLP"


@dataclass(frozen=True)
class ConfigPlan(Costs):
    """What a run of a model of this `shape` costs, at these `bits`.

    `rows` as in `Plan`; `strategies` say how products are computed, layer by layer. A plan of
    weights that exist may find less: see docs/import.md.
    """

    shape: Shape
    bits: PlannedBits
    rows: tuple[PlanRow, ...]
    key_bytes: int
    peak_memory_bytes: int
    ciphertext_bytes: int
    request_bytes: int
    reply_bytes: int
    p_error: float
    prices: Mapping[str, Any]
    dear: tuple[str, ...]
    strategies: Mapping[str, str] = field(repr=False)

    def by_kind(self) -> dict[str, list[PlanRow]]:
        """Rows by kind of layer, in the order in which they come."""
        found: dict[str, list[PlanRow]] = {}
        for row in self.rows:
            found.setdefault(kind_of(row.layer), []).append(row)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        model = self.shape.model
        names = ("tokens", "layers", "dim", "heads", "mlp_dim")
        return {
            "config": self.shape.name,
            "family": self.shape.family,
            "output": self.shape.output,
            "parameters": self.shape.parameters,
            **{name: getattr(model, name) for name in names},
            "kv_heads": model.key_heads,
            "unread": list(self.shape.unread),
            "bits": self.bits.act,
            "sum_bits": self.bits.sums,
            "sums": "wrap" if self.bits.wraps else "proved",
            "quant": quant_settings(model, self.bits),
            "pbs_total": self.pbs_total,
            "pbs_by_bit_width": {str(bits): n for bits, n in self.pbs_by_bit_width.items()},
            "by_kind": {
                kind: {"pbs": sum(r.pbs for r in rows), "seconds": _seconds(rows)}
                for kind, rows in self.by_kind().items()
            },
            "predicted_seconds": round(self.predicted_seconds, 3),
            "key_bytes": self.key_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "ciphertext_bytes": self.ciphertext_bytes,
            "request_bytes": self.request_bytes,
            "reply_bytes": self.reply_bytes,
            "p_error": self.p_error,
            "failure_probability": failure_probability(self.pbs_total, self.p_error),
            "dear": list(self.dear),
            "products": sorted(set(self.strategies.values())),
            "prices": dict(self.prices),
            "assumptions": list(self.assumptions()),
        }

    def assumptions(self) -> tuple[str, ...]:
        """What the plan takes for granted."""
        read = "wrap, tables of {ring} bits read them" if self.bits.wraps else "are proved"
        how = "looked up by the client" if self.shape.model.vocabulary else "unary bits"
        return (
            f"ternary weights, codes of {self.bits.act} bits, sums that codes alone read"
            f" {read.format(ring=self.bits.ring)}, proved sums of {self.bits.sums} bits",
            f"all {self.shape.model.tokens} tokens at once, inputs {how}",
            f"every code occurs, no channel is dead, {TERNARY_SHARE:.0%} of weights are not zero",
        )

    def table(self) -> str:
        """A line for each kind of layer, for people."""
        model, cells = self.shape.model, []
        for kind, rows in [*self.by_kind().items(), ("total", list(self.rows))]:
            widths = sorted({row.bits for row in rows})
            bits = f"{widths[0]}-{widths[-1]}" if len(widths) > 1 else f"{widths[0]}"
            pbs = sum(row.pbs for row in rows)
            cells.append([kind, f"{pbs:,}", bits, f"{_seconds(rows):,.1f}"])
        heads = f"{model.heads} heads"
        if model.key_heads != model.heads:
            heads += f" ({model.key_heads} of keys)"
        gib = 2**30
        widths_text = ", ".join(f"{n:,} of {bits}" for bits, n in self.pbs_by_bit_width.items())
        lines = [
            f"{self.shape.name}: {self.shape.family}, {model.layers} layers, width {model.dim},"
            f" {heads}, MLP {model.mlp_dim}, {model.tokens} tokens,"
            f" {self.shape.parameters:,} parameters",
            table(["layers", "PBS", "bits", "seconds"], cells, right=range(1, 4)),
            f"bootstraps by bits: {widths_text}",
            f"keys {self.key_bytes / 2**20:,.0f} MiB, peak memory"
            f" {self.peak_memory_bytes / gib:,.1f} GiB, of which ciphertexts"
            f" {self.ciphertext_bytes / gib:,.1f} GiB, request {self.request_bytes / 2**20:,.1f}"
            f" MiB, reply {self.reply_bytes / 2**20:,.1f} MiB",
            f"p_error {show_p_error(self.p_error)} a bootstrap, failure of a run"
            f" {failure_probability(self.pbs_total, self.p_error):.1e}",
            *self.dear,
            *(f"assumed: {each}" for each in self.assumptions()),
        ]
        if self.shape.unread:
            lines.append(f"not read: {', '.join(self.shape.unread)}")
        if whose := describe_prices(self.prices):
            lines.append(whose)
        return "\n".join(lines)


def plan_config(shape: Shape, bits: PlannedBits, prices: PriceList) -> ConfigPlan:
    """Count and price a model of this shape.

    Raises:
        InputError: it has more tokens than are planned, or a sum is wider than any table.
    """
    if shape.model.tokens > MOST_TOKENS:
        raise InputError(
            f"{shape.name}: {shape.model.tokens:,} tokens at once are not planned, the limit is"
            f" {MOST_TOKENS:,}; ask for fewer with --tokens"
        )
    skeleton, strategies = Skeleton(), dict[str, str]()
    Blocks(shape.model, bits, Multiplier(skeleton, prices, strategies)).run()
    estimate = skeleton.estimate(prices)
    rows = estimate.rows()
    widest = max(rows, key=lambda row: row.bits)
    if widest.bits > MAXIMUM_BITS:
        raise InputError(
            f"{shape.name}: a sum in {widest.layer} needs {widest.bits} bits, the limit is"
            f" {MAXIMUM_BITS}; no way is known to run that shape"
        )
    return ConfigPlan(
        shape=shape,
        bits=bits,
        rows=rows,
        key_bytes=estimate.key_bytes(),
        peak_memory_bytes=estimate.peak_memory_bytes(),
        ciphertext_bytes=max(estimate.ciphertext_bytes_by_layer().values()),
        request_bytes=estimate.request_bytes(),
        reply_bytes=estimate.reply_bytes(),
        p_error=prices.p_error,
        prices={**prices.machine, "origin": prices.origin, "elsewhere": prices.elsewhere},
        dear=tuple(str(dear) for dear in estimate.dear()),
        strategies=strategies,
    )


def quant_settings(model: ModelConfig, bits: PlannedBits) -> dict[str, Any]:
    """What `QuantConfig.from_dict` takes to build what was planned."""
    return bits.settings(
        model.dim,
        gated=model.gated,
        token_ids=model.vocabulary is not None,
        post_norm=model.post_norm,
    )


def kind_of(layer: str) -> str:
    """The kind of layer that a layer's bootstraps are reported under."""
    return next((kind for part, kind in KINDS.items() if part in layer), OTHER_KIND)


def _seconds(rows: list[PlanRow]) -> float:
    return round(sum(row.ms for row in rows) / 1000, 3)
