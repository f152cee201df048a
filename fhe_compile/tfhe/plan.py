"""Program in, its cost out before anything is compiled: bootstraps, widths, seconds, bytes.

Counted, each an exact formula over the operations that the circuit is traced from:

- a table: one bootstrap an element (`size`), at the bits its input is read with;
- an exact rounding of b bits to b - k: `k * size` one-bit bootstraps, at b, b - 1, ... bits;
- everything else: none.

Estimated, from the price list of one machine (see `cost`):

- `predicted_seconds`: sum of bootstraps times milliseconds with their parameters; a table of n
  elements on t threads takes as long as one of the next multiple of t;
- `key_bytes`: evaluation keys, as they are sent;
- `peak_memory_bytes`: of the process that runs the circuit: itself, the keys twice (once in Fourier
  form), and the largest sum of ciphertexts alive at once.

Not counted: encryption and decryption, key generation, compilation, additions and multiplications
by clear numbers and keyswitches between parameter sets (together under 3 % of the seconds of any
program seen), and, where client and server share a process, the client's own copy of the keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torusformer import BitWidthError
from torusformer.fhe_compile.passes.expand import expand
from torusformer.fhe_compile.passes.options import MEMORY_LIMIT, PassOptions
from torusformer.fhe_compile.prices.cost import PriceList, load_prices
from torusformer.fhe_compile.prices.failure import EXACT, failure_probability, show_p_error
from torusformer.fhe_compile.program.nodes import Program
from torusformer.fhe_compile.tfhe.encode import encode
from torusformer.fhe_compile.tfhe.encoding import Encoding
from torusformer.fhe_compile.tfhe.estimate import Dear, Estimate
from torusformer.fhe_compile.tfhe.plan_rows import Costs, PlanRow
from torusformer.fhe_compile.tfhe.read_wider import read_wider_if_cheaper
from torusformer.fhe_compile.tfhe.tensor_ops import Lookup, Truncate, Wrap
from torusformer.fhe_compile.tfhe.wide_sums import WideSums, wide_sums
from torusformer.tables import table

MAXIMUM_BITS = 16


@dataclass(frozen=True)
class Plan(Costs):
    """What a run of `program` will cost, and the form of it that does: `encoding` of `expanded`.

    `rows` are in the order of execution.
    `ciphertext_bytes_by_layer`: the most ciphertext alive at once in the layer.
    `key_bytes_by_bit_width`: of the bootstrap keys alone, by the width of the tables they are for;
    roundings are width 0. `prices`: whose milliseconds these are. `dear`: the widths of tables that
    take twice the work, and why; `wide`: sums that could be rounded. `request_bytes` are the
    client's ciphertexts, compressed, `reply_bytes` those that it decrypts.
    """

    program: Program = field(repr=False)
    expanded: Program = field(repr=False)
    encoding: Encoding = field(repr=False)
    rows: tuple[PlanRow, ...]
    max_bit_width: int
    key_bytes: int
    peak_memory_bytes: int
    p_error: float = EXACT
    ciphertext_bytes_by_layer: Mapping[str, int] = field(default_factory=dict)
    key_bytes_by_bit_width: Mapping[int, int] = field(default_factory=dict)
    prices: Mapping[str, Any] = field(default_factory=dict)
    dear: tuple[Dear, ...] = ()
    wide: tuple[WideSums, ...] = ()
    request_bytes: int = 0
    reply_bytes: int = 0

    @property
    def pbs_by_tag(self) -> dict[str, int]:
        """Bootstraps by tag and by every prefix of it, as Concrete reports them."""
        count: Counter[str] = Counter()
        for row in self.rows:
            parts = row.tag.split(".")
            for end in range(1, len(parts) + 1):
                count[".".join(parts[:end])] += row.pbs
        return dict(count)

    @property
    def wrapping_by_layer(self) -> dict[str, int]:
        """Bootstraps that read a sum modulo 2**(bits + 1), by layer; only layers that have some."""
        count: Counter[str] = Counter()
        for row in self.rows:
            if row.wraps:
                count[row.layer] += row.pbs
        return dict(count)

    @property
    def seconds_by_layer(self) -> dict[str, float]:
        """Predicted seconds by the layer of the model they are spent in."""
        seconds: dict[str, float] = {}
        for row in self.rows:
            seconds[row.layer] = seconds.get(row.layer, 0.0) + row.ms / 1000
        return seconds

    @property
    def failure_probability(self) -> float:
        """The chance that any bootstrap of one run is wrong."""
        return failure_probability(self.pbs_total, self.p_error)

    def to_json(self) -> dict[str, object]:
        """Plain numbers and strings, as in `report.json`."""
        return {
            "pbs_total": self.pbs_total,
            "pbs_by_layer": self.pbs_by_layer,
            "pbs_by_bit_width": {str(bits): n for bits, n in self.pbs_by_bit_width.items()},
            "wrapping_by_layer": self.wrapping_by_layer,
            "max_bit_width": self.max_bit_width,
            "predicted_seconds": round(self.predicted_seconds, 3),
            "seconds_by_layer": {k: round(s, 4) for k, s in self.seconds_by_layer.items()},
            "p_error": self.p_error,
            "failure_probability": self.failure_probability,
            "key_bytes": self.key_bytes,
            "key_bytes_by_bit_width": {str(b): n for b, n in self.key_bytes_by_bit_width.items()},
            "peak_memory_bytes": self.peak_memory_bytes,
            "ciphertext_bytes_by_layer": dict(self.ciphertext_bytes_by_layer),
            "dear": [dict(vars(dear)) for dear in self.dear],
            "wide": [wide.to_json() for wide in self.wide],
            "request_bytes": self.request_bytes,
            "reply_bytes": self.reply_bytes,
            "prices": dict(self.prices),
            "products": dict(self.expanded.strategies),
        }

    def table(self) -> str:
        """A line for each layer, for people."""
        by_layer: dict[str, list[PlanRow]] = {}
        for row in self.rows:
            by_layer.setdefault(row.layer, []).append(row)
        wrapping = self.wrapping_by_layer
        head, cells = ["layer", "PBS", "bits", *["wrap"] * bool(wrapping), "seconds"], []
        for layer, rows in [*by_layer.items(), ("total", list(self.rows))]:
            widths = sorted({row.bits for row in rows}) or [0]
            bits = f"{widths[0]}-{widths[-1]}" if len(widths) > 1 else f"{widths[0]}"
            pbs, seconds = sum(r.pbs for r in rows), sum(r.ms for r in rows) / 1000
            wraps = sum(wrapping.values()) if layer == "total" else wrapping.get(layer, 0)
            cells.append([layer, f"{pbs:,}", bits, *[f"{wraps:,}"] * bool(wrapping),
                          f"{seconds:.1f}"])  # fmt: skip
        text = [table(head, cells, right=range(1, len(head)))]
        keys, memory = self.key_bytes / 2**20, self.peak_memory_bytes / 2**20
        request, reply = self.request_bytes / 2**10, self.reply_bytes / 2**10
        text.append(
            f"keys {keys:,.0f} MiB, peak memory {memory:,.0f} MiB, "
            f"request {request:,.1f} KiB, reply {reply:,.0f} KiB"
        )
        text.append(
            f"p_error {show_p_error(self.p_error)} a bootstrap, "
            f"failure of a run {self.failure_probability:.1e}"
        )
        text += [str(why) for why in (*self.dear, *self.wide)]
        if whose := describe_prices(self.prices):
            text.append(whose)
        return "\n".join(text)


def describe_prices(prices: Mapping[str, Any]) -> str:
    """Whose milliseconds a plan counts in, for people; empty if they name no machine."""
    if "processor" not in prices:
        return ""
    text = f"seconds of {prices['processor']}, {prices['threads']} threads, {prices['date']}"
    if prices.get("origin") == "probed":
        text += f", {prices['factor']:.2f} times as long after a probe here"
    elif prices.get("origin") == "shipped" and not prices["elsewhere"]:
        text += " (shipped list), never checked on this machine: torusformer calibrate does"
    if prices["elsewhere"]:
        text += (
            f" ({prices['origin']} list): not this machine, measure it with torusformer calibrate"
        )
    return text


def plan(
    program: Program,
    prices: PriceList | None = None,
    p_error: float | None = None,
    *,
    without: Collection[str] = (),
    memory_limit: int = MEMORY_LIMIT,
) -> Plan:
    """Expand, encode and count a program before it is compiled: the cheapest way to do it.

    `p_error` is that of the prices, or else 2**-64. `without` leaves passes out, and no
    ciphertexts of a product's terms fill more than `memory_limit` bytes at once; see `expand`.

    Raises:
        BitWidthError: a table or a rounding reads more than Concrete has tables for.
    """
    if p_error is None:
        p_error = prices.p_error if prices else EXACT
    prices = prices or load_prices(p_error=p_error)
    ways = list(expand(program, PassOptions(prices, memory_limit), without).values())
    estimates = [Estimate(encode(way), prices) for way in ways]
    cheapest = min(range(len(ways)), key=lambda i: estimates[i].total_ms())
    return planned(program, *read_wider_if_cheaper(ways[cheapest], estimates[cheapest]), p_error)


def planned(
    program: Program,
    expanded: Program,
    estimate: Estimate,
    p_error: float = EXACT,
    keys: Estimate | None = None,
) -> Plan:
    """`plan` of a program that is expanded, encoded and estimated already.

    `keys` is the estimate of all functions together where this is one of several: the keys are
    those that all of them share.
    """
    encoding, prices, keys = estimate.encoding, estimate.prices, keys or estimate
    _check_widths(encoding)
    rows = []
    for op in encoding.operations:
        ms = estimate.milliseconds(op)
        if isinstance(op, Lookup):
            bits = estimate.bits_read(op)
            wraps = isinstance(estimate.sum_read(op), Wrap)
            rows.append(PlanRow(op.tag, op.layer, "table", bits, 0, op.size, ms, wraps))
        elif isinstance(op, Truncate):
            rows.append(PlanRow(op.tag, op.layer, "round", op.bits, op.lsbs, op.size * op.lsbs, ms))
    return Plan(
        program=program,
        expanded=expanded,
        encoding=encoding,
        rows=tuple(rows),
        max_bit_width=max((row.bits for row in rows), default=0),
        key_bytes=keys.key_bytes(),
        peak_memory_bytes=estimate.peak_memory_bytes(keys),
        p_error=p_error,
        ciphertext_bytes_by_layer=estimate.ciphertext_bytes_by_layer(),
        key_bytes_by_bit_width=keys.key_bytes_by_bit_width(),
        dear=keys.dear(),
        wide=wide_sums(((r.layer, r.bits, r.pbs, r.ms) for r in rows if r.op == "table"), prices),
        request_bytes=estimate.request_bytes(),
        reply_bytes=estimate.reply_bytes(),
        prices={**prices.machine, "origin": prices.origin, "elsewhere": prices.elsewhere},
    )


def _check_widths(encoding: Encoding) -> None:
    """Concrete has no table, and so no rounding, of more than 16 bits."""
    for op in encoding.operations:
        if not isinstance(op, Lookup | Truncate):
            continue
        bits = encoding.operations[op.args[0]].bits
        if bits > MAXIMUM_BITS:
            value = op.tag.removeprefix(f"{op.layer}.")
            raise BitWidthError(
                f"{op.layer}: what {value} reads needs {bits} bits, the limit is {MAXIMUM_BITS}; "
                f"lower act_bit_width or weight_bit_width, or train with a smaller "
                f"accumulator_bit_width"
            )
