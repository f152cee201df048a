"""All problems of a graph at once: each once, by its layer's name, and what works beside them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.commands import printed, refused, say
from tests.qonnx_graphs import GraphMaker
from tests.test_ingest_random import graphs
from torusformer import TorusformerError
from torusformer.fhe_compile import examine, lower
from torusformer.strict_json import parse_json


def broken() -> onnx.ModelProto:
    """Four things wrong; behind each a quantizer, so that the next one can be seen."""
    g = GraphMaker((1, 4))
    ones = np.ones((4, 4), int)
    x = g.quant("x", 0.5, 3, layer="inp")
    a = g.op("MatMul", x, g.weight(ones), layer="blocks.0/fc")
    b = g.quant(g.op("Softmax", a, layer="blocks.0/attn"), 0.1, 3, layer="blocks.0/attn/act_quant")
    float_weights = g.const(np.random.default_rng(0).normal(size=(4, 4)))
    c = g.op("Relu", g.op("MatMul", b, float_weights, layer="fc2"), layer="relu")
    d = g.quant(c, 0.1, 4, layer="relu/act_quant")
    erf = g.op("Erf", d, layer="erf")
    q, k = (g.op("MatMul", erf, g.weight(ones), layer=name) for name in ("q", "k"))
    both = g.quant(g.op("Add", q, k, layer="sum"), 0.25, 3, layer="sum/act_quant")
    wide = g.op("MatMul", both, g.weight(3 * ones), layer="fc3")
    return g.model(g.quant(wide, 0.7, 3, layer="out"), g.op("Erf", wide, layer="sig"))


def test_every_problem_is_found_once_where_it_is() -> None:
    found = examine(broken())
    assert [(p.layer, p.operator, p.also) for p in found.problems] == [
        ("blocks.0.attn", "Softmax", ()),
        ("fc2", "MatMul", ()),
        ("q", "MatMul", ("k",)),
        ("output", "", ()),
    ]
    assert all(p.found and p.cure for p in found.problems)
    assert found.beyond >= 1  # relu: a quantizer makes it known again
    works = {w.layer: w for w in found.works}
    assert works["out"].tables == 4
    assert "fc2" not in works
    assert "fc3" in works


def test_the_first_problem_is_what_lower_says() -> None:
    model = broken()
    first = examine(model).problems[0]
    with pytest.raises(TorusformerError) as said:
        lower(model)
    assert str(said.value) == str(first)


def test_the_limit_stands_for_itself() -> None:
    g = GraphMaker((1, 300))
    wide = g.op("MatMul", g.quant("x", 0.5, 8), g.weight(np.full((300, 2), 3)), layer="fc")
    (problem,) = examine(g.model(g.quant(wide, 9.0, 3, layer="act"))).problems
    assert (problem.layer, problem.limit) == ("act", "16")
    assert "18 bits" in problem.found


def test_what_is_dear_lowers_and_is_named() -> None:
    g = GraphMaker((1, 40))
    wide = g.op("MatMul", g.quant("x", 0.5, 2), g.weight(np.ones((40, 2))), layer="fc")
    found = examine(g.model(g.quant(wide, 9.0, 3, layer="act")))
    assert found.ok
    assert [(d.layer, d.tables, d.bits) for d in found.dear] == [("act", 2, 7)]
    assert "--accumulator-bits" in str(found.dear[0])


def test_a_node_without_a_path_keeps_its_name() -> None:
    g = GraphMaker((1, 2))
    g.op("LpNormalization", g.quant("x"))
    g.op("Det", "t0")
    g.nodes[-2].name, g.nodes[-1].name = "LpNormalization_12", ""
    found = examine(g.model("t1", "t2"))
    assert [p.layer for p in found.problems] == ["LpNormalization_12", "what makes 't2'"]
    assert "Det is not supported" in found.problems[1].found  # though what it reads is not


def test_a_graph_input_of_free_size_does_not_end_it() -> None:
    g = GraphMaker((1, 2))
    g.op("LpNormalization", g.quant("x"))
    model = g.model("t1")
    model.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_value")
    found = examine(model)
    assert [p.layer for p in found.problems] == ["input"]
    assert found.beyond == 2


def test_operators_that_nobody_defines_are_problems_among_others(tmp_path: Path) -> None:
    g = GraphMaker((1, 2))
    x = g.quant("x", layer="inp")
    y = g.op("LpNormalization", g.op("Mystery", x, layer="a", domain="some.vendor"), layer="b")
    z = g.op("Warp", g.op("Conv", y, x, layer="c", domain="qonnx.custom_op.channels_last"))
    path = tmp_path / "m.qonnx.onnx"
    onnx.save(g.model(z, g.op("FloatQuant", x, layer="d", domain="onnx.brevitas")), path)
    found = examine(path)
    assert [(p.layer, p.operator) for p in found.problems] == [
        ("a", "Mystery"), ("c", "Conv"), ("net", "Warp"), ("d", "FloatQuant"),
    ]  # fmt: skip
    assert "operator some.vendor.Mystery is unknown" in found.problems[0].found
    assert all(p.cure for p in found.problems) and found.beyond == 1
    said = say(f"check {path}")
    assert (said.code, said.err) == (1, "")
    assert "some.vendor.Mystery is unknown" in refused(f"lower {path} --out {tmp_path / 'p.onnx'}")


@settings(max_examples=15, deadline=None, derandomize=True)
@given(graphs(), st.integers(0, 1000))
def test_it_agrees_with_lower(model: onnx.ModelProto, seed: int) -> None:
    """Of random graphs, whole and with quantizers taken out."""
    rng = random.Random(seed)
    for node in model.graph.node:
        if node.op_type == "Quant" and rng.random() < 0.1:
            node.op_type, node.domain = "Relu", ""
            del node.input[1:], node.attribute[:]
    found = examine(model)
    try:
        lower(model)
    except TorusformerError as error:
        first = str(found.problems[0]).removeprefix("output: ")
        assert str(error).startswith(first)  # `lower` may add that samples would help
    else:
        assert found.ok, str(found)


def test_the_command_says_it_by_its_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "m.qonnx.onnx"
    onnx.save(broken(), path)
    said = say(f"check {path}")
    assert (said.code, said.err) == (1, "")
    assert "4 problems" in said.out
    as_json = say(f"check {path} --json")
    assert as_json.code == 1
    assert [p["layer"] for p in parse_json(as_json.out)["problems"]][:2] == ["blocks.0.attn", "fc2"]
    g = GraphMaker((1, 2))
    onnx.save(g.model(g.quant("x")), path)
    assert printed(f"check {path}")["ok"]
    path.write_bytes(b"no graph")
    assert "not an ONNX file" in refused(f"check {path}")
