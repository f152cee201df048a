"""QONNX file in, integer program out: ingest, then the passes every program wants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.ingest import ingest
from torusformer.fhe_compile.frontend.inputs import InputOptions
from torusformer.fhe_compile.frontend.token_wise import TOKENS_KEY, Tokens, tokens_of
from torusformer.fhe_compile.passes.expand import AT_LOWERING
from torusformer.fhe_compile.program.nodes import Program
from torusformer.fhe_compile.program.onnx_gate import check_model
from torusformer.fhe_compile.program.onnx_io import load_model


def lower(
    source: str | Path | onnx.ModelProto,
    metadata: Mapping[str, str] | None = None,
    tokens: Tokens | None = None,
    *,
    input_scale: float | None = None,
    input_bits: int | None = None,
    input_signed: bool = False,
    calibrate: Mapping[str, NDArray[Any]] | None = None,
) -> Program:
    """The integer program of a QONNX model (a file or a loaded model, batch size 1).

    Args:
        source: QONNX as Brevitas or QONNX tools write it.
        metadata: strings to keep with the program (task, labels).
        tokens: how whole numbers that look up rows enter: as "one-hot" rows, the tables staying
            with the server, or by "lookup" in a public table of what depends on them alone. By
            default as the model's metadata entry "tokens" says, else "one-hot".
        input_scale: real numbers to the step of an input that no quantizer reads.
        input_bits: bits of its integers, two's complement where `input_signed`.
        input_signed: whether they can be negative.
        calibrate: samples by input name, or as "x": the scale is such that the largest fits, and
            there is a sign where one is negative, unless `input_scale` says.

    Raises:
        ArtifactError: the file is missing, truncated, or not ONNX.
        LoweringError: an unknown operator, an unquantized tensor, scales that do not meet.
        BitWidthError: a table input over 16 bits.
        InputError: what is said of inputs does not fit them.
    """
    if isinstance(source, onnx.ModelProto):
        model = source
        check_model(model, "the graph")
    else:
        model = load_model(source)
    way = tokens_of(tokens, model)
    if TOKENS_KEY in (metadata or {}):
        metadata = {**(metadata or {}), TOKENS_KEY: way}
    inputs = InputOptions(input_scale, input_bits, input_signed, calibrate)
    program = ingest(model, metadata, way, inputs)
    if tokens and not any(port.vocabulary for port in program.inputs):
        raise LoweringError(
            f"tokens={tokens!r} says how token ids enter, and this graph takes none; leave it out"
        )
    for rewrite in AT_LOWERING:
        program = rewrite(program)
    return program
