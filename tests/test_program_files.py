"""`program.onnx` means what ONNX Runtime computes, or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.programs import Builder, every_node, random_program
from torusformer import ArtifactError, TorusformerError
from torusformer.fhe_compile import load_program
from torusformer.fhe_compile.program.nodes import AddConst, Port
from torusformer.fhe_compile.program.onnx_compare import first_difference
from torusformer.fhe_compile.program.onnx_io import METADATA_KEY, from_onnx, to_onnx

Change = Callable[[onnx.ModelProto], object]


def node(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if output in n.output)


def tensor(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def fill(model: onnx.ModelProto, name: str, value: object) -> None:
    tensor(model, name).CopyFrom(numpy_helper.from_array(np.array(value, np.int64), name))


def added(model: onnx.ModelProto, output: str, **attributes: object) -> None:
    for name, value in attributes.items():
        node(model, output).attribute.append(helper.make_attribute(name, value))


def described(**changes: object) -> Change:
    """Of the first output."""

    def change(model: onnx.ModelProto) -> None:
        about = json.loads(model.metadata_props[0].value)
        about["outputs"][0].update(changes)
        model.metadata_props[0].value = json.dumps(about)

    return change


ALTERED: dict[str, tuple[Change, str]] = {
    "another Mod": (
        lambda m: (
            m.graph.initializer.append(numpy_helper.from_array(np.array(8), "eight")),
            node(m, "rounded.low").input.__setitem__(1, "eight"),
        ),
        "'attn.scores/rounded.low' (Mod) has input 'eight' where 'rounded.step' belongs",
    ),
    "Mod by sign": (lambda m: added(m, "rounded.low", fmod=1), "attribute 'fmod'"),
    "Slice's axes": (lambda m: fill(m, "part.axes", [2, 1, 0]), "tensor 'part.axes' is another"),
    "a step of 0": (lambda m: fill(m, "part.steps", [1, 0, 1]), "from 1 up"),
    "a negative start": (lambda m: fill(m, "part.starts", [-1, 0, 0]), "from 0 up"),
    "a table's index": (
        lambda m: setattr(node(m, "act.index"), "op_type", "Sub"),
        "'fc/act.index' (Sub) has op_type 'Sub' where 'Add' belongs",
    ),
    "a table's axis": (lambda m: node(m, "act").attribute[0].__setattr__("i", 1), "'axis'"),
    "a sum that keeps": (lambda m: added(m, "total", noop_with_empty_axes=1), "noop_with_empty"),
    "a sum over no axis": (lambda m: fill(m, "total.axes", []), "over no axis"),
    "Reshape that copies": (lambda m: added(m, "folded", allowzero=1), "'allowzero'"),
    "Reshape by 0": (lambda m: fill(m, "folded.shape", [2, 0, 2]), "from 1 up"),
    "another type": (
        lambda m: m.graph.input[0].type.tensor_type.__setattr__("elem_type", 6),
        "they have to be of one kind",
    ),
    "an input that has a default": (
        lambda m: m.graph.input.append(
            helper.make_tensor_value_info("act.values", TensorProto.INT64, [4])
        ),
        "its inputs are others",
    ),
    "another opset": (lambda m: setattr(m.opset_import[0], "version", 18), "opsets"),
    "one more domain": (lambda m: m.opset_import.append(helper.make_opsetid("x", 1)), "opsets"),
    "another order": (lambda m: m.graph.node.reverse(), "which nothing before it makes"),
    "one name for two": (lambda m: setattr(node(m, "act.index"), "name", "fc/act"), "has name"),
    "a value made twice": (
        lambda m: node(m, "shifted").output.__setitem__(0, "ones"),
        "'ones' is made twice",
    ),
    "a function": (lambda m: m.functions.add(), "functions"),
    "a sparse tensor": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
    "a hint": (
        lambda m: m.graph.value_info.append(helper.make_tensor_value_info("act", 7, [1])),
        "describes values between its nodes",
    ),
    "another kind of whole number": (
        lambda m: tensor(m, "act.values").CopyFrom(
            numpy_helper.from_array(np.zeros(100, np.int32), "act.values")
        ),
        "they have to be of one kind",
    ),
    "a table of two axes": (
        lambda m: tensor(m, "act.values").dims.append(1),
        "a table that is not flat",
    ),
    "no outputs": (lambda m: m.graph.ClearField("output"), "no output"),
    "a scale of 0": (described(scale=0.0), "scale of difference is 0"),
    "a scale that is text": (described(scale="1"), "is no number"),
    "a shape without end": (described(shape=[2**40, 2**40]), "has shape"),
    "a bound of another kind": (described(lo=-1.5), "whole number"),
    "an output that is not one-hot": (described(one_hot=True, lo=0, hi=1), "match|one-hot"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_program_is_refused_by_name(name: str) -> None:
    change, word = ALTERED[name]
    model = to_onnx(every_node())
    change(model)
    with pytest.raises(ArtifactError) as refused:
        from_onnx(model)
    assert any(part in str(refused.value) for part in word.split("|")), refused.value


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_is_read(seed: int) -> None:
    model = to_onnx(random_program(seed, nodes=8, bits=4))
    assert first_difference(model, to_onnx(from_onnx(model))) is None


def test_a_constant_that_spreads_a_value_is_refused() -> None:
    b = Builder(Port("x", (1, 2), 0, 3))
    b.add(AddConst("y", "l", ("x",), np.zeros((3, 2), np.int64)))
    with pytest.raises(ArtifactError, match="does not keep the shape"):
        from_onnx(to_onnx(b.program("y")))


TENSORS: dict[str, tuple[Change, str]] = {
    "too few": (lambda m: setattr(m.graph.initializer[0], "raw_data", b"1"), "bytes are declared"),
    "elsewhere": (
        lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
        "in another file",
    ),
    "text": (lambda m: setattr(m.graph.initializer[0], "data_type", 8), "data type 8"),
    "huge": (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40), "are declared"),
    "negative": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -1), "negative size"),
    "many axes": (lambda m: m.graph.initializer[0].dims.extend([1] * 40), "axes, the limit is 8"),
    "a name that moves the cursor": (
        lambda m: setattr(m.graph.node[0], "name", "\x1b[2J"),
        "printable",
    ),
    "a graph in it": (
        lambda m: m.graph.node[0].attribute.append(
            helper.make_attribute("body", onnx.GraphProto())
        ),
        "holds a graph",
    ),
    "metadata without end": (
        lambda m: setattr(m.metadata_props[0], "value", "[" * 100_000),
        "nested deeper than 100",
    ),
    "metadata with NaN": (
        lambda m: setattr(m.metadata_props[0], "value", '{"format": NaN}'),
        "NaN is no number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_what_is_malformed_is_refused_before_it_is_read(name: str, tmp_path: Path) -> None:
    change, word = TENSORS[name]
    model = to_onnx(every_node())
    assert model.metadata_props[0].key == METADATA_KEY
    change(model)
    (tmp_path / "p.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError) as refused:
        load_program(tmp_path / "p.onnx")
    assert word in str(refused.value)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    data = to_onnx(every_node()).SerializeToString().replace(b"attn.scores", b"attn.sc\xffres")
    (tmp_path / "p.onnx").write_bytes(data)
    with pytest.raises(TorusformerError, match="printable"):
        load_program(tmp_path / "p.onnx")
