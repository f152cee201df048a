"""The plan counts from the program alone; circuits compare it with Concrete in test_circuit."""

import json

import numpy as np
import pytest

from tests.programs import Builder, Port, every_node
from torusformer.fhe_compile.prices.cost import PriceList, load_prices
from torusformer.fhe_compile.program.nodes import Linear, MatMul, Round
from torusformer.fhe_compile.tfhe.plan import plan

PRICES = PriceList(
    {},
    table_ms={3: 10.0, 4: 20.0, 6: 80.0},
    round_ms={6: 5.0},
)


def rounded_sum() -> Builder:
    b = Builder(Port("x", (2, 4), 0, 15))
    b.add(Linear("acc", "blocks.0.fc", ("x",), np.ones((4, 3), np.int64)))  # 0..60: 6 bits
    b.add(Round("round", "blocks.0.fc", ("acc",), 2))
    b.table("act", "blocks.0.act", "round", lambda n: n // 2)
    return b


def test_tables_and_roundings_are_counted_by_layer_and_width():
    found = plan(rounded_sum().program("act"), PRICES)
    assert found.pbs_by_layer == {"blocks.0.fc": 12, "blocks.0.act": 6}
    assert found.pbs_by_bit_width == {1: 12, 4: 6}
    assert (found.pbs_total, found.max_bit_width) == (18, 6)
    assert found.pbs_by_tag["blocks.0"] == 18
    assert found.predicted_seconds == pytest.approx((12 * 5 + 6 * 20) / 1000)


def test_a_rounding_that_only_the_client_reads_costs_nothing():
    assert plan(rounded_sum().program("round"), PRICES).pbs_total == 0


def test_a_product_costs_one_bootstrap_and_two_small_ones():
    b = Builder(Port("q", (5, 4), -2, 1), Port("k", (4, 5), -2, 1))
    b.add(MatMul("scores", "attn", ("q", "k")))
    found = plan(b.program("scores"), PRICES)
    assert found.pbs_by_layer == {"attn": 5 * 5 * 4 + 5 * 4 + 4 * 5}
    assert found.to_json()["products"] == {"scores": "pair sums"}


def test_report_is_plain_json_with_the_promised_keys():
    found = plan(every_node())
    report = json.loads(json.dumps(found.to_json()))
    keys = "pbs_total pbs_by_layer pbs_by_bit_width max_bit_width predicted_seconds key_bytes"
    assert {*keys.split(), "peak_memory_bytes"} <= report.keys()
    assert sum(report["pbs_by_layer"].values()) == report["pbs_total"]
    assert sum(report["pbs_by_bit_width"].values()) == report["pbs_total"]


def test_table_has_a_line_a_layer_and_a_total():
    lines = plan(rounded_sum().program("act"), PRICES).table().splitlines()
    assert lines[0].split() == ["layer", "PBS", "bits", "seconds"]
    assert [line.split()[0] for line in lines[1:4]] == ["blocks.0.fc", "blocks.0.act", "total"]


def test_prices_between_and_beyond_the_measured_widths():
    assert PRICES.table(5) == pytest.approx(40.0)  # half way, in log scale
    assert PRICES.table(7) == pytest.approx(160.0)
    assert PRICES.table(1) == 10.0


def test_shipped_prices_name_their_machine():
    prices = load_prices()
    assert {"processor", "threads", "concrete_python", "date"} <= prices.machine.keys()
    assert all(prices.table(b) < prices.table(b + 1) for b in range(2, 12))
