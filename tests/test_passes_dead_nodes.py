"""What no output depends on goes."""

from tests.programs import Builder, Port
from torusformer.fhe_compile.passes.dead_nodes import remove_dead_nodes
from torusformer.fhe_compile.program.nodes import Add


def test_unread_nodes_go_and_inputs_stay():
    b = Builder(Port("x", (2,), 0, 7), Port("unread", (2,), 0, 7))
    b.add(Add("used", "layer", ("x", "x")))
    b.add(Add("dead", "layer", ("used", "x")))
    b.add(Add("deader", "layer", ("dead", "unread")))
    b.add(Add("out", "layer", ("used", "x")))
    kept = remove_dead_nodes(b.program("out"))
    assert [node.name for node in kept.nodes] == ["used", "out"]
    assert [port.name for port in kept.inputs] == ["x", "unread"]
