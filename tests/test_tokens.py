"""Token ids from outside: checked, made rows of integers, sent encrypted, and answered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.qonnx_graphs import GraphMaker
from tests.test_ingest_tokens import VOCABULARY, WAYS, WIDTH, TokenGraph
from torusformer import ArtifactError, InputError
from torusformer.fhe_compile import (
    Program,
    compile_program,
    interpret,
    load_program,
    lower,
    save_deployment,
)
from torusformer.fhe_compile.program.nodes import Port
from torusformer.fhe_compile.program.onnx_io import METADATA_KEY, from_onnx, to_onnx
from torusformer.fhe_compile.program.port_json import port_from_json, port_to_json
from torusformer.fhe_compile.program.ports import check_array, dequantize_array, quantize_array
from torusformer.pipelines.cli import main
from torusformer.pipelines.values import read_samples
from torusformer.serving import Client, Server

TABLE = np.array([[[0, 4], [1, 3], [2, -3]]])
ONE_HOT = Port("tokens", (1, 2, 3), 0, 1, one_hot=True)
LOOKUP = Port("tokens", (1, 2, 2), -3, 4, table=TABLE)
PLACED = Port("tokens", (1, 2, 2), -3, 5, table=np.concatenate([TABLE, TABLE + 1]))


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (ONE_HOT, [[[0, 0, 1], [1, 0, 0]]]),
        (LOOKUP, [[[2, -3], [0, 4]]]),
        (PLACED, [[[2, -3], [1, 5]]]),
        (Port("token", (1, 3), 0, 1, one_hot=True), [[0, 0, 1]]),
    ],
)
def test_ids_become_rows(port: Port, expected: list) -> None:
    ids = [[2, 0]] if len(port.shape) == 3 else [2]
    assert port.real_shape == np.shape(ids)
    assert check_array(port, quantize_array(port, ids)).tolist() == expected
    several = quantize_array(port, np.array([ids, ids]))
    assert several.tolist() == [expected, expected]
    assert quantize_array(port, np.array(ids, float)).tolist() == expected


@pytest.mark.parametrize("port", [ONE_HOT, LOOKUP])
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[2, 3]], "tokens from 2 to 3, it takes 0 to 2"),
        ([[-1, 0]], "tokens from -1 to 0, it takes 0 to 2"),
        ([[0.5, 1]], "whole numbers"),
        ([[np.nan, 1]], "whole numbers"),
        ([["a", "b"]], "whole numbers"),
    ],
)
def test_what_is_no_token_is_refused(port: Port, ids: list, message: str) -> None:
    with pytest.raises(InputError, match=f"'tokens'.*{message}"):
        quantize_array(port, ids)


def test_integers_outside_a_columns_range_are_refused() -> None:
    with pytest.raises(InputError, match="'tokens' holds integers"):
        check_array(LOOKUP, [[[4, 4], [0, 4]]])  # 4 is within the port's bounds, not the column's


def test_one_hot_rows_become_ids_again() -> None:
    assert dequantize_array(ONE_HOT, quantize_array(ONE_HOT, [[2, 0]])).tolist() == [[2, 0]]


@pytest.mark.parametrize("port", [ONE_HOT, LOOKUP, PLACED])
def test_a_port_survives_json(port: Port) -> None:
    again = port_from_json(json.loads(json.dumps(port_to_json(port))))
    assert (again.shape, again.one_hot) == (port.shape, port.one_hot)
    np.testing.assert_array_equal(again.table, port.table)


@pytest.mark.parametrize(
    "table", [[[0, 1]], [[[0, 1, 2]]], [[[9, 0]]], [[[0, 0]]] * 3, "rows", [[[0], [1, 2]]]]
)
def test_a_table_that_does_not_fit_its_port_is_refused(table: object) -> None:
    program = lower(graph(), tokens="lookup")
    model = to_onnx(program)
    about = json.loads(model.metadata_props[0].value)
    about["inputs"][0]["table"] = table
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(about)})
    with pytest.raises(ArtifactError, match="not a valid torusformer program"):
        from_onnx(model)


def graph() -> onnx.ModelProto:
    """A bag of two tokens, their length, and one table for each of both."""
    g = TokenGraph((1, 2))
    x = g.op("Mul", g.row, g.op("Unsqueeze", g.keep(), g.const([2], np.int64)))
    bag = g.op("ReduceSum", g.quant(x, 0.9, 2), g.const([1], np.int64), keepdims=0)
    first = g.op("Slice", bag, *(g.const(v, np.int64) for v in ([0], [2], [1])))
    return g.model(g.quant(g.op("Relu", first), 0.9, 2, signed=False))


@pytest.fixture(scope="module", params=WAYS)
def program(request: pytest.FixtureRequest) -> Program:
    return lower(graph(), tokens=request.param)


def test_two_parties_exchange_rows_and_answers(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "deployment"
    save_deployment(compile_program(program), folder)
    client, server = Client(folder), Server(folder)
    keys = server.load_keys(client.evaluation_keys())
    for ids in ([[1, 4]], [[3, 0]]):
        q_x = client.quantize({"x": ids})
        expected = interpret(program, q_x)[program.outputs[0].name]
        answer = client.decrypt(server.run(client.encrypt(q_x), keys))
        np.testing.assert_array_equal(answer[program.outputs[0].name], expected)
    with pytest.raises(InputError, match=r"has shape \(1, 3\), it takes \(1, 2\)"):
        client.quantize({"x": [[1, 2, 3]]})
    with pytest.raises(InputError, match="it takes 0 to 4"):
        client.quantize({"x": [[1, 5]]})


def test_a_file_of_ids_is_read(program: Program, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (6, 2))
    np.save(tmp_path / "ids.npy", ids)
    samples = read_samples(tmp_path / "ids.npy", program.inputs)
    (port,) = program.inputs
    expected = [quantize_array(port, row[None]).tolist() for row in ids]
    assert [sample["x"].tolist() for sample in samples] == expected


@pytest.mark.parametrize("way", [None, *WAYS])
def test_lower_and_run_take_tokens(
    way: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = graph()
    onnx.helper.set_model_props(model, {"tokens": "lookup"})
    onnx.save(model, str(tmp_path / "m.qonnx.onnx"))
    out = tmp_path / "program.onnx"
    chosen = ["--tokens", way] if way else []
    assert main(["lower", str(tmp_path / "m.qonnx.onnx"), "--out", str(out), *chosen]) == 0
    found = load_program(out)
    assert (found.inputs[0].table is None) == (way == "one-hot")
    assert found.metadata["tokens"] == (way or "lookup")
    np.save(tmp_path / "ids.npy", np.array([[1, 4], [3, 0]]))
    capsys.readouterr()
    run = ["run", "--program", str(out), "--input", str(tmp_path / "ids.npy"), "--json"]
    assert main(run) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    name = found.outputs[0].name
    for result, ids in zip(results, ([[1, 4]], [[3, 0]]), strict=True):
        q_y = interpret(found, {"x": quantize_array(found.inputs[0], ids)})[name]
        assert result["outputs"][name]["integers"] == q_y.tolist()
    np.save(tmp_path / "ids.npy", np.array([[1, VOCABULARY]]))
    assert main(run) == 2
    assert f"it takes 0 to {VOCABULARY - 1}" in capsys.readouterr().err


def test_tokens_of_a_graph_that_takes_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = GraphMaker((1, WIDTH))
    onnx.save(g.model(g.quant(g.op("Relu", g.quant("x")))), str(tmp_path / "m.onnx"))
    out = tmp_path / "program.onnx"
    assert main(["lower", str(tmp_path / "m.onnx"), "--out", str(out), "--tokens", "lookup"]) == 2
    assert "this graph takes none" in capsys.readouterr().err
    assert not out.exists()


def test_a_large_table_takes_few_bytes() -> None:
    table = np.random.default_rng(0).integers(-4, 4, (1, 3_000, 32))
    text = json.dumps(port_to_json(Port("tokens", (1, 8, 32), -4, 3, table=table)))
    assert len(text) < 4 * table.size
