"""Graphs that mean something else than they seem to: what ONNX Runtime computes, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.fuzz.commands import through_commands
from tests.fuzz.oracle import Answers, Oracle
from tests.qonnx_graphs import GraphMaker, float_outputs
from torusformer import ArtifactError, LoweringError
from torusformer.fhe_compile import lower


def whole(g: GraphMaker, *numbers: int) -> str:
    return g.const(list(numbers), np.int64)


def quantized(kind: str, *given: Callable[[GraphMaker], str], **attributes: object) -> GraphMaker:
    """The operator on (1, 3, 4) quantized numbers, and a quantizer behind it."""
    g = GraphMaker((1, 3, 4))
    x = g.quant("x", 0.5)
    y = g.op(kind, x, *(make(g) for make in given), **attributes)
    g.last = g.quant(y, 0.313)  # type: ignore[attr-defined]
    return g


def model_of(g: GraphMaker) -> onnx.ModelProto:
    return g.model(g.last)  # type: ignore[attr-defined]


ANSWERED: dict[str, Callable[[], GraphMaker]] = {
    "no axes": lambda: quantized("ReduceSum", whole, noop_with_empty_axes=1),
    "all axes": lambda: quantized("ReduceSum", whole),
    "axis behind the last": lambda: quantized("Flatten", axis=3),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_what_is_lowered_is_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model_of(ANSWERED[name]()), path)
    through_commands(path, seed=0)


def test_a_cast_to_whole_numbers_cuts_them(tmp_path: Path) -> None:
    g = GraphMaker((1, 4))
    cut = g.op("Cast", g.quant("x", 0.7, 4), to=TensorProto.INT64)
    path = tmp_path / "model.onnx"
    onnx.save(g.model(g.quant(g.op("Cast", cut, to=TensorProto.FLOAT), 1.01, 4)), path)
    through_commands(path, seed=0)


def test_parts_are_cut_as_onnx_cuts_them(tmp_path: Path) -> None:
    """Seven into three: three, three and one, by opset 18."""
    g = GraphMaker((1, 7))
    x = g.quant("x", 0.5)
    node = onnx.helper.make_node("Split", [x], ["a", "b", "c"], axis=1, num_outputs=3)
    g.nodes.append(node)
    model = g.model("c", "b", "a")
    model.opset_import[0].version = 18
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    through_commands(path, seed=0)


REFUSED = {
    "an axis that it has not": (
        lambda: quantized("Unsqueeze", lambda g: whole(g, 9)),
        LoweringError,
        "axis 9 of a tensor that has 4",
    ),
    "an axis twice": (
        lambda: quantized("Unsqueeze", lambda g: whole(g, 0, 0)),
        LoweringError,
        "adds an axis twice",
    ),
    "a shape below -1": (
        lambda: quantized("Reshape", lambda g: whole(g, -3)),
        LoweringError,
        "gives the shape",
    ),
    "a shape of none": (
        lambda: quantized("Reshape", lambda g: whole(g, 0), allowzero=1),
        LoweringError,
        "sizes are from 1 up",
    ),
    "a slice of nothing": (
        lambda: quantized("Slice", lambda g: whole(g, 2), lambda g: whole(g, 1)),
        LoweringError,
        "has no numbers",
    ),
    "rows again and again": (
        lambda: quantized("Gather", lambda g: whole(g, *[0] * 2000), axis=1),
        LoweringError,
        "2,000 separate pieces, the limit is 1,024",
    ),
    "a remainder of reals": (
        lambda: quantized("Mod", lambda g: g.const(0.7)),
        LoweringError,
        "without fmod",
    ),
    "bounds of several numbers": (
        lambda: quantized("Clip", lambda g: g.const([0.1, 0.2, 0.3, 0.4])),
        LoweringError,
        "bounds that are not one number each",
    ),
    "what drops at random": (
        lambda: quantized("Dropout", lambda g: g.const(0.5), lambda g: g.const(True, np.bool_)),
        LoweringError,
        "may drop at random",
    ),
    "kinds that do not meet": (
        lambda: quantized("Add", lambda g: whole(g, 1)),
        ArtifactError,
        "is int64, another is float; they have to be of one kind",
    ),
    "a kind that is not allowed": (
        lambda: quantized("Relu", alpha=1),
        ArtifactError,
        "attribute 'alpha' is unknown",
    ),
    "a sum over reals": (
        lambda: quantized("ReduceSum", lambda g: g.const([1.0])),
        ArtifactError,
        "is float, which ONNX does not allow",
    ),
    "a scale beyond all": (
        lambda: quantized("Mul", lambda g: g.const(3e38)),
        LoweringError,
        "no number below 1e+30",
    ),
    "hardly a scale": (
        lambda: quantized("Mul", lambda g: g.const(1e-40)),
        LoweringError,
        "its scale is below 1e-30",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_named(name: str) -> None:
    build, error, said = REFUSED[name]
    with pytest.raises(error) as refused:
        lower(model_of(build()))
    assert said in str(refused.value)


def test_an_older_softmax_is_refused() -> None:
    model = model_of(quantized("Softmax"))
    model.opset_import[0].version = 11
    with pytest.raises(ArtifactError, match="Softmax means something else since opset 13"):
        lower(model)


def test_an_output_declared_as_another_kind_is_refused() -> None:
    model = model_of(quantized("Relu"))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    with pytest.raises(ArtifactError, match="is declared as int32 and is float"):
        lower(model)


def test_the_oracle_is_the_float_graph() -> None:
    """ONNX Runtime over a Quant written out, and QONNX's definition in numpy."""
    g = GraphMaker((1, 4))
    y = g.quant("x", 0.5, 3, zero=1.0, narrow=True)
    y = g.quant(g.op("Sigmoid", y), 0.1, 3, signed=False, rounding="FLOOR")
    model = g.model(g.quant(y, 0.3, 4, rounding="CEIL"))
    x = np.random.default_rng(0).normal(0, 2, (1, 4)).astype(np.float32)
    (found,) = Oracle(model).run({"x": x}).outputs
    np.testing.assert_allclose(found, float_outputs(model, x)[0], rtol=1e-6)


def test_a_wrong_answer_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model_of(quantized("Relu")), path)
    run = Oracle.run

    def other(oracle: Oracle, feeds: Mapping[str, np.ndarray]) -> Answers:
        right = run(oracle, feeds)
        return Answers([y + np.float32(0.313) for y in right.outputs], right.tied, right.largest)

    monkeypatch.setattr(Oracle, "run", other)
    with pytest.raises(AssertionError, match="ONNX Runtime"):
        through_commands(path, seed=0)
