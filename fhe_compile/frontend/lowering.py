"""QONNX file in, integer program out: ingest, then the passes every program wants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torusformer import BitWidthError, InputError, LoweringError
from torusformer.fhe_compile.frontend.decompose.rewriter import Precision
from torusformer.fhe_compile.frontend.decompose.samples import sample_inputs
from torusformer.fhe_compile.frontend.decompose.walk import decompose
from torusformer.fhe_compile.frontend.ingest import ingest
from torusformer.fhe_compile.frontend.inputs import InputOptions
from torusformer.fhe_compile.frontend.token_wise import TOKENS_KEY, Tokens, tokens_of
from torusformer.fhe_compile.passes.expand import AT_LOWERING
from torusformer.fhe_compile.program.nodes import Program
from torusformer.fhe_compile.program.onnx_gate import check_model
from torusformer.fhe_compile.program.onnx_io import load_model

DECOMPOSED_KEY = "decomposed"  # metadata: what was put otherwise than it stands in the graph
# Refusals of what samples help with.
_BY_SAMPLES = (
    "that no quantizer reads",
    "packs both into one table",
    "an element-wise function of",
    "no whole multiple of its quantizer's scale",
)


def lower(
    source: str | Path | onnx.ModelProto,
    metadata: Mapping[str, str] | None = None,
    tokens: Tokens | None = None,
    *,
    input_scale: float | None = None,
    input_bits: int | None = None,
    input_signed: bool = False,
    calibrate: NDArray[Any] | Mapping[str, NDArray[Any]] | None = None,
    precision: Precision | None = None,
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
        calibrate: samples (N, *shape of the input), or by input name. With them, float functions
            between quantizers (softmax, norms, what meets unquantized) become tables on grids
            that fit the samples. The metadata entry "decomposed" lists them. An input that no
            quantizer reads gets a scale such that the largest fits, and a sign where one is
            negative, unless `input_scale` says.
        precision: bits of those tables.

    Raises:
        ArtifactError: the file is missing, truncated, or not ONNX.
        LoweringError: an unknown operator, an unquantized tensor, scales that do not meet.
        BitWidthError: a table input over 16 bits.
        InputError: samples that do not fit the graph, bits without samples, or what is said of
            inputs does not fit them.
    """
    if isinstance(source, onnx.ModelProto):
        model = source
        check_model(model, "the graph")
    else:
        model = load_model(source)
    way = tokens_of(tokens, model)
    if TOKENS_KEY in (metadata or {}):
        metadata = {**(metadata or {}), TOKENS_KEY: way}
    by_name = {"x": calibrate} if isinstance(calibrate, np.ndarray) else calibrate
    inputs = InputOptions(input_scale, input_bits, input_signed, by_name)
    if precision is not None and calibrate is None:
        raise InputError("bits of what becomes tables need samples; add --calibrate samples.npz")
    try:
        program = ingest(model, metadata, way, inputs)
    except (LoweringError, BitWidthError) as error:
        if calibrate is None:
            if any(said in str(error) for said in _BY_SAMPLES):
                cure = "or give samples: lower --calibrate samples.npz"
                raise type(error)(f"{error}, {cure}") from None
            raise
        samples = sample_inputs(model.graph, calibrate)
        model, steps = decompose(model, samples, way, precision or Precision())
        if steps:
            listed = json.dumps([asdict(step) for step in steps])
            metadata = {**(metadata or {}), DECOMPOSED_KEY: listed}
        program = ingest(model, metadata, way, inputs)
    if tokens and not any(port.vocabulary for port in program.inputs):
        raise LoweringError(
            f"tokens={tokens!r} says how token ids enter, and this graph takes none; leave it out"
        )
    for rewrite in AT_LOWERING:
        program = rewrite(program)
    return program
