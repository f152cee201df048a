"""A graph in, the walk of `ingest` over it, node by node, out: the one place that starts it."""

from __future__ import annotations

import onnx

from torusformer.fhe_compile.frontend.ingest import Ingest as Reader
from torusformer.fhe_compile.frontend.token_wise import Tokens

__all__ = ["Reader", "reader"]


def reader(graph: onnx.GraphProto, tokens: Tokens = "one-hot") -> Reader:
    """What knows of every tensor of the graph what it is in terms of a program's integers."""
    return Reader(graph, tokens, {})
