from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torusformer import InputError
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.layers import (
    AccumulatorRounding,
    GroupedSum,
    RoundedLinear,
    RowRounding,
    matmul,
)
from torusformer.quantize.norms import QUANT_NORMS
from torusformer.quantize.quantizers import ActQuant, Grid
from torusformer.quantize.walk import Rows
from torusformer.quantize.weight_quantizers import LeastSquaresGrid, _ternary
from torusformer.quantize.weights import SoftmaxWeights


def integers(lo: int, hi: int, scale: float = 1.0) -> Grid:
    codes = torch.arange(lo, hi + 1, dtype=torch.float32)
    return Grid(
        codes * scale, torch.tensor(scale), torch.tensor(float(lo)), torch.tensor(float(hi))
    )


def linear(inputs: int, outputs: int, config: QuantConfig, span: int) -> RoundedLinear:
    weight = torch.randn(outputs, inputs) / inputs**0.5
    return RoundedLinear(weight, torch.randn(outputs), config, input_span=span).eval()


@given(
    lo=st.integers(-600, 0),
    span=st.integers(1, 1200),
    bits=st.integers(2, 6),
    offset=st.floats(-50, 50),
    scale=st.floats(1e-3, 10),
)
def test_rounding_is_the_integer_formula(
    lo: int, span: int, bits: int, offset: float, scale: float
) -> None:
    x = integers(lo, lo + span, scale)
    out = AccumulatorRounding(bits)(x, torch.tensor(offset * scale))
    k = round(float(torch.log2(out.scale / x.scale)))
    if k == 0:
        assert span < 2**bits
        return
    whole = round(float(torch.round(torch.tensor(offset * scale) / x.scale)))
    expected = torch.div(
        torch.arange(lo, lo + span + 1) + whole - 1 + 2 ** (k - 1), 2**k, rounding_mode="floor"
    )
    assert torch.equal(torch.round(out.value / out.scale).long(), expected)
    assert (int(out.lo), int(out.hi)) == (int(expected[0]), int(expected[-1]))
    assert int(expected[-1] - expected[0]) < 2**bits  # narrow enough
    first, last = lo + whole - 1, lo + span + whole - 1
    half = 2 ** (k - 2) if k > 1 else 0
    previous = (last + half) // 2 ** (k - 1) - (first + half) // 2 ** (k - 1)
    assert previous >= 2**bits - 1  # and not narrower than it must be


def test_rounding_leaves_narrow_sums_alone() -> None:
    x = integers(-10, 10, 0.3)
    assert torch.equal(AccumulatorRounding(5)(x).value, x.value)


def test_ranges_of_linear_sums_are_proved() -> None:
    torch.manual_seed(0)
    layer = linear(6, 4, QuantConfig(sum_bit_width=7), 7)
    acc = layer.accumulate(
        Grid(torch.zeros(1, 6), torch.tensor(0.5), *map(torch.tensor, (-4.0, 3.0)))
    )
    weight = layer.linear.quant_weight()
    w = torch.round(weight.value / weight.scale)
    corners = torch.cartesian_prod(*[torch.tensor([-4.0, 3.0])] * 6)
    sums = corners @ w.T
    assert torch.equal(acc.lo, sums.amin(0))
    assert torch.equal(acc.hi, sums.amax(0))
    torch.testing.assert_close(acc.scale, 0.5 * weight.scale.flatten())


@given(
    bits=st.integers(2, 4),
    limit=st.integers(1, 20),
    per_channel=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=40)
def test_weights_stay_within_their_norm(
    bits: int, limit: int, per_channel: bool, seed: int
) -> None:
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed))
    value, scale, zero, _ = LeastSquaresGrid(bits, per_channel, limit).eval()(weight)
    codes = value / scale
    assert torch.allclose(codes, torch.round(codes), atol=1e-4)
    assert float(torch.round(codes).abs().max()) <= 2 ** (bits - 1) - 1
    assert float(torch.round(codes).abs().sum(1).max()) <= limit
    assert float(zero) == 0


def test_least_squares_example() -> None:
    weight = torch.tensor([[0.9, -0.1, 0.7, 0.5]])
    value = LeastSquaresGrid(2, True, 2.0).eval()(weight)[0]
    torch.testing.assert_close(value, torch.tensor([[0.8, 0.0, 0.8, 0.0]]))


def test_ternary_scales_counted_once_sorted_fit_as_those_tried() -> None:
    rows = torch.randn(7, 40, generator=torch.Generator().manual_seed(0))
    rows[0, :4], rows[1] = 0.5, 0.0  # ties at half a scale, and nothing at all
    grid = LeastSquaresGrid(2, True, 40.0)
    scales = torch.cat([torch.linspace(0.1, 5.0, 50), torch.ones(1)])[:, None, None].expand(
        -1, 7, 1
    )
    (fit, norms), (wanted, wanted_norms) = (
        _ternary(rows, scales),
        grid._tried(rows, scales, rows.shape),
    )
    torch.testing.assert_close(fit, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(norms, wanted_norms.to(norms.dtype))


@pytest.mark.parametrize("kind", ["bounded", "a2q", "a2q+"])
def test_sums_never_pass_the_promised_width(kind: str) -> None:
    torch.manual_seed(0)
    config = QuantConfig.from_dict(
        {"weight_quant": kind, "weight_bit_width": 4, "act_bit_width": 2, "sum_bit_width": 6}
    )
    layer = linear(32, 8, config, 3)
    source = ActQuant(2)
    with torch.no_grad():
        acc = layer.accumulate(source(torch.randn(3, 32)))
    assert float((acc.hi - acc.lo).max()) < 2**6


def test_too_narrow_a_sum_is_refused() -> None:
    with pytest.raises(InputError, match="sum_bit_width 3"):
        linear(4, 4, QuantConfig(sum_bit_width=3, act_bit_width=4), 15)


def test_activations_share_a_grid() -> None:
    a = ActQuant(4)
    b = ActQuant(2, share_scale_of=a)
    a.set_scale(0.25)
    x = torch.linspace(-3, 3, 50)
    assert torch.equal(a(x).scale, b(x).scale)
    assert (float(b(x).value.min()), float(b(x).value.max())) == (-0.5, 0.25)


def test_products_are_bounded_by_their_corners() -> None:
    x = Grid(torch.ones(2, 3), torch.tensor(0.5), torch.tensor(-4.0), torch.tensor(3.0))
    y = Grid(torch.ones(3, 2), torch.tensor(2.0), torch.tensor(0.0), torch.tensor(7.0))
    out = matmul(x, y)
    assert (float(out.lo), float(out.hi), float(out.scale)) == (-84.0, 63.0, 1.0)


def test_wide_softmax_approaches_the_real_one() -> None:
    names = ("score", "value", "softmax", "exp", "attention", "statistic")
    wide = {f"{name}_bit_width": 10 for name in names}
    layer = SoftmaxWeights(QuantConfig(**wide, accumulator_bit_width=12)).eval()
    p = torch.rand(3, 2, 5, 5) * 4 - 2
    for quant, scale in (
        (layer.score_quant, 0.01), (layer.exp_quant, 0.0075), (layer.weight_quant, 1 / 1023)
    ):  # fmt: skip
        quant.set_scale(scale)
    with torch.no_grad():
        weights = layer(p, Rows(0, 5, causal=False))
        masked = layer(p, Rows(0, 5, causal=True))
    later = torch.triu(torch.ones(5, 5), diagonal=1) == 1
    seen = torch.softmax(p.masked_fill(later, -100), -1)
    torch.testing.assert_close(masked.value, seen, atol=0.05, rtol=0)
    torch.testing.assert_close(weights.value, torch.softmax(p, -1), atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", QUANT_NORMS)
def test_wide_norms_approach_the_real_ones(kind: str) -> None:
    torch.manual_seed(0)
    config = QuantConfig(norm_bit_width=8, rsqrt_bit_width=8, act_bit_width=8, branch_bit_width=8,
                         statistic_bit_width=12, accumulator_bit_width=12)  # fmt: skip
    norm = QUANT_NORMS[kind](16, config).eval()  # type: ignore[index]
    x = ActQuant(8)
    x.set_scale(0.02)
    grid = x(torch.randn(40, 16) + 0.3)
    measured = kind in ("layer", "rms")
    if measured:
        norm.centred_quant.set_scale(0.03)
        norm.rsqrt_quant.set_scale(0.02)
    norm.out_quant.set_scale(0.03)
    v = grid.value - (grid.value.mean(-1, keepdim=True) if kind == "layer" else 0)
    expected = v / v.pow(2).mean(-1, keepdim=True).sqrt() if measured else v
    with torch.no_grad():
        torch.testing.assert_close(norm(grid).value, expected, atol=0.12, rtol=0)


def test_grouped_sums_stay_below_their_limits() -> None:
    x = integers(-8, 7, 0.5)
    x = x._replace(value=x.value.repeat(2).reshape(2, 16))  # sums of 16 numbers of 4 bits
    exact = GroupedSum(8, 8)(x)
    assert torch.equal(exact.value, x.value.sum(-1, keepdim=True))
    assert (float(exact.lo), float(exact.hi)) == (-128, 112)
    two = GroupedSum(7, 6)(x)  # groups of 8 have 7 bits, rounded to 5
    assert float(two.hi - two.lo) < 2**6
    assert torch.equal(torch.round(two.value / two.scale) * two.scale, two.value)
    assert (two.value - exact.value).abs().max() <= two.scale * 2 * 0.75


def test_a_row_is_rounded_as_far_as_its_own_terms_need() -> None:
    """As the step at its position will round it: one token's sum stays exact."""
    x = integers(-8, 7)._replace(value=torch.tensor([[5.0], [9.0], [30.0]]))
    found = RowRounding(4).rows(x, [1, 2, 4])
    assert found.scale.flatten().tolist() == [1, 2, 4]
    for i, count in enumerate([1, 2, 4]):
        alone = x._replace(value=x.value[i], lo=x.lo * count, hi=x.hi * count)
        assert torch.equal(AccumulatorRounding(4)(alone).value, found.value[i])
    alike = RowRounding(4).rows(x, [2, 2, 2])
    assert alike.scale.ndim == 0


def test_what_a_token_adds_comes_in_whole_steps_of_the_sum() -> None:
    torch.manual_seed(0)
    weight, known, bias = torch.randn(4, 6), torch.randn(4, 5), torch.randn(4)
    config = QuantConfig(accumulator_bit_width=12, token_bit_width=8)
    layer = RoundedLinear(weight, bias, config, input_span=7, known=known).eval()
    x = ActQuant(3)(torch.randn(2, 3, 6))
    token = torch.randn(2, 3, 5)
    with torch.no_grad():
        added = layer(x, token) - layer.accumulate(x).value
        scale = layer.accumulate(x).scale
    wanted = token @ known.T + bias
    assert torch.allclose(torch.round(added / scale) * scale, added, atol=1e-5)
    assert float(((added - wanted) / scale).abs().max()) <= 0.5 + 1e-4
