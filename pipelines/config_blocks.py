"""The shape of a transformer and bits in, the operations of its circuit out, without weights.

What `quantize` builds of such a model, what it is lowered to and what the passes make of that, as
closed formulas in tokens, widths, heads and layers. Layers are called as in a lowered program.

| step | tables, each an element, unless it is rounded before |
|---|---|
| query, key, value | T n of each, again behind rotations; none where tokens are known |
| score | products of T^2 h d terms, T^2 h roundings and tables |
| softmax | 2 T^2 h and T h |
| context | products of T^2 h d terms, T h d |
| out, down | T n |
| norm | 3 T n, groups of sums rounded, a few T |
| MLP | T m, of a gate 3 T m |
"""

from __future__ import annotations

from collections import Counter

from torusformer.fhe_compile.tfhe.encoding import bits_for
from torusformer.pipelines.config_bits import (
    HEAD_MEAN,
    HEAD_SQUARE,
    HEAD_SUM_BITS,
    INPUT_BITS,
    PlannedBits,
    Range,
)
from torusformer.pipelines.config_steps import Steps
from torusformer.pipelines.skeleton import Value, dropped_bits

THIRDS = 3  # a rotation's entries are multiples of a third
TURNED = 4  # at most that many thirds are in a row of it, without their signs


class Blocks(Steps):
    """One walk over a model; operations go into the skeleton."""

    def run(self) -> None:
        """From inputs to outputs."""
        model = self.model
        known = model.vocabulary is not None
        stream = self._embedded()
        queries: dict[str, Value] | None = self._known() if known else None
        for i in range(model.layers):
            last = i == model.layers - 1
            rows = 1 if last and not model.positionwise else model.tokens
            stream = self._block(f"blocks.{i}", stream, queries, rows)
            queries = None
        if not model.post_norm:
            stream = self._norm("norm", stream)
        if model.pooler is not None:
            found = self._linear("pooler", stream, model.dim, None)
            stream = self._read("pooler_quant.quant", "pooler.rounding", found, self.bits.code)
        self._head(stream)

    def _known(self) -> dict[str, Value]:
        """Codes of queries, keys and values of the first block, which the client looks up."""
        return {
            part: self._input(part, (1, count, self.model.tokens, size), self.bits.code)
            for part, count, size in self._heads()
        }

    def _heads(self) -> tuple[tuple[str, int, int], ...]:
        m = self.model
        return (
            ("query", m.heads, m.score_dim),
            ("key", m.key_heads, m.score_dim),
            ("value", m.key_heads, m.head_value_dim),
        )

    def _input(self, name: str, shape: tuple[int, ...], of: Range) -> Value:
        return self.skeleton.enter(name, shape, of.lo, of.hi)

    def _embedded(self) -> Value:
        """Where the residual stream begins: looked up by the client, or a table of features."""
        m, b = self.model, self.bits
        if m.features is None:
            return self._input("stream", (1, m.tokens, m.dim), b.stream)
        codes = m.features * (2**INPUT_BITS - 1)
        x = self._input("x", (1, m.tokens, codes), Range(0, 1))
        limit = min(2**b.sums - 1, codes)
        span = Range(0, limit)
        shape = (1, m.tokens, m.dim)
        found = self.skeleton.sums("embed.linear", shape, [(x, limit)], span.lo, span.hi)
        return self.skeleton.table("stream_quant.quant", found, b.stream.lo, b.stream.hi)

    def _block(self, name: str, stream: Value, known: dict[str, Value] | None, rows: int) -> Value:
        m, b, s = self.model, self.bits, self.skeleton
        read = stream if m.post_norm or known is not None else self._norm(f"{name}.norm1", stream)
        found = self._attention(f"{name}.attention", name, read, known, rows)
        out = self._linear(f"{name}.out", found, m.dim, "out")
        branch = self._read(f"{name}.attention_quant.quant", f"{name}.out.rounding", out, b.code)
        stream = self._added(name, self._first_rows(name, stream, rows), branch)
        if m.post_norm:
            stream = read = self._norm(f"{name}.norm1", stream)
        else:
            read = self._norm(f"{name}.norm2", stream)
        up = self._linear(f"{name}.up", read, m.mlp_dim, "up" if m.gated else None)
        place = f"{name}.activation_quant.quant"
        if m.gated:
            gate = self._linear(f"{name}.gate", read, m.mlp_dim, None)
            factor = b.code if b.wraps else b.full_code
            up = self._read(f"{name}.up_quant.quant", f"{name}.up.rounding", up, factor)
            gate = self._read(
                f"{name}.gate_quant.quant", f"{name}.gate.rounding", gate, b.full_code
            )
            hidden = self.multiplier.pair_table(place, gate, up, b.code.lo, b.code.hi)
        else:
            hidden = self._read(place, f"{name}.up.rounding", up, b.positive)
        down = self._linear(f"{name}.down", hidden, m.dim, "down")
        branch = self._read(f"{name}.mlp_quant.quant", f"{name}.down.rounding", down, b.code)
        stream = s.sums(name, stream.shape, [(stream, 1), (branch, 1)],
                        stream.lo + branch.lo, stream.hi + branch.hi)  # fmt: skip
        return self._norm(f"{name}.norm2", stream) if m.post_norm else stream

    def _projected(self, name: str, block: str, x: Value, rows: int) -> dict[str, Value]:
        """Codes of queries, keys and values (1, h, T, d)."""
        b, s = self.bits, self.skeleton
        found = {}
        turns = self.model.positions == "rotary"
        for at, (part, count, size) in enumerate(self._heads()):
            read = self._first_rows(name, x, rows) if part == "query" else x
            value = self._linear(f"{block}.{part}", read, count * size, part)
            rounding = f"{block}.{part}.rounding"
            shape = (1, count, value.shape[1], size)
            value = s.sums(name, shape, [(value, 1)], value.lo, value.hi)
            code = f"{name}.{part}_quant.quant"
            if turns and part != "value":
                value = self._read(f"{name}.before_turn.{at}.quant", rounding, value, b.code)
                reach = TURNED * b.code.hi
                value = s.sums(name, shape, [(value, THIRDS**2 + 1)], -reach, reach)
                ring = b.ring if folds(reach, b) else None
                found[part] = s.table(code, value, b.code.lo, b.code.hi, ring=ring)
            else:
                found[part] = self._read(code, rounding, value, b.code)
        return found

    def _attention(
        self, name: str, block: str, x: Value, known: dict[str, Value] | None, rows: int
    ) -> Value:
        """What each row finds, codes (1, rows, h d)."""
        m, b, s = self.model, self.bits, self.skeleton
        parts = known or self._projected(name, block, x, rows)
        query, key, value = (parts[part] for part in ("query", "key", "value"))
        if query.shape[2] != rows:
            query = s.sums(name, (*query.shape[:2], rows, query.shape[3]), [(query, 1)],
                           query.lo, query.hi)  # fmt: skip
        turned = (1, m.heads, m.score_dim, m.tokens)
        key = s.sums(name, turned, [(key, 1)], key.lo, key.hi)
        value = s.sums(name, (1, m.heads, m.tokens, m.head_value_dim), [(value, 1)],
                       value.lo, value.hi)  # fmt: skip
        scores = self.multiplier.matmul(name, query, key)
        weights = self._softmax(name, scores, rows)
        context = self.multiplier.matmul(name, weights, value)
        place = f"{name}.context_quant.quant"
        if b.wraps:
            found = s.table(place, context, b.code.lo, b.code.hi, ring=b.ring)
        else:
            term = Range(context.lo // m.tokens, context.hi // m.tokens)
            found = self._of_rows(name, f"{name}.context_rounding", place, context, term, b.code)
        shape = (1, rows, m.heads * m.head_value_dim)
        return s.sums(name, shape, [(found, 1)], found.lo, found.hi)

    def _softmax(self, name: str, scores: Value, rows: int) -> Value:
        """exp(p - log(sum(exp p))) of scores, codes of weights."""
        m, b, s = self.model, self.bits, self.skeleton
        inside = f"{name}.weights"
        p = s.read(f"{inside}.score_quant.quant", scores, b.sums, b.score.lo, b.score.hi,
                   f"{name}.score_rounding")  # fmt: skip
        e = s.table(f"{inside}.exp_quant.quant", p, b.exponential.lo, b.exponential.hi,
                    aligned=True)  # fmt: skip
        shape = (1, m.heads, rows, 1)
        total = s.sums(inside, shape, [(e, m.tokens)], 0, m.tokens * e.hi)
        log = self._of_rows(inside, f"{inside}.sum_rounding", f"{inside}.log_quant.quant", total,
                            b.exponential, b.score)  # fmt: skip
        difference = s.sums(inside, scores.shape, [(p, 1), (log, 1)], p.lo - log.hi, p.hi - log.lo)
        return s.read(f"{inside}.quant", difference, b.sums, b.positive.lo, b.positive.hi,
                      f"{inside}.difference_rounding")  # fmt: skip

    def _of_rows(
        self, layer: str, rounding: str, place: str, total: Value, term: Range, codes: Range
    ) -> Value:
        """A table of sums over as many terms as each row sees, each row rounded by itself."""
        m, b, s = self.model, self.bits, self.skeleton
        heads, rows, width = total.shape[1:]
        if not m.causal or rows == 1:
            return s.read(place, total, b.sums, codes.lo, codes.hi, rounding)
        alike: Counter[tuple[int, int, int]] = Counter()
        kept = Range(0, 0)
        for count in range(1, m.tokens + 1):
            lo, hi = count * term.lo, count * term.hi
            k = dropped_bits(lo, hi, b.sums)
            half = 2 ** (k - 1) - 1 if k else 0
            first, last = (lo + half) >> k, (hi + half) >> k
            kept = Range(min(kept.lo, first), max(kept.hi, last))
            if k:
                alike[k, bits_for(hi + half - (first << k)), last - first] += 1
        if not alike:
            return s.read(place, total, b.sums, codes.lo, codes.hi, rounding)
        parts = [(total, 1.0)]
        for (k, bits, span), times in alike.items():
            parts.append((self._rounded_row(layer, total, heads, width, k, bits, span, times), 1.0))
        joined = s.sums(layer, total.shape, parts, kept.lo, kept.hi, joined=True)
        return s.table(place, joined, codes.lo, codes.hi)

    def _rounded_row(
        self, layer: str, total: Value, heads: int, width: int, k: int, bits: int, span: int,
        times: int,
    ) -> Value:  # fmt: skip
        """One row of those that are rounded alike, looked up as it is to meet the others."""
        s = self.skeleton
        row = s.sums(layer, (1, heads, 1, width), [(total, 1)], 0, 2**bits - 1, times=times)
        cut = s.cut(layer, row, bits, k, span, times)
        return s.table(layer, cut, 0, span, lsbs=k, times=times)

    def _head(self, x: Value) -> None:
        """Outputs: codes, or logits, which the client reads."""
        m, s = self.model, self.skeleton
        if m.hidden:
            s.leave("hidden", x, bits_for(x.span))
            return
        count = min((2**HEAD_SUM_BITS - 1) // x.span, int(HEAD_MEAN * x.shape[-1]))
        lo, hi = (count * end for end in (x.lo, x.hi))
        shape = (*x.shape[:-1], m.outputs)
        square = HEAD_SQUARE / HEAD_MEAN * count
        logits = s.sums("head.linear", shape, [(x, square)], lo, hi)
        s.leave("logits", logits, bits_for(logits.span))


def folds(reach: int, bits: PlannedBits) -> bool:
    """Whether an odd table from -reach to reach is one of a ring: only opposites meet there."""
    return 2 * reach <= 2**bits.ring
