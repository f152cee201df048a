"""The programs of a decoder, one for each position: what a module is compiled from.

`step.p` takes the token at position p and what earlier tokens left in the cache, and gives logits
(or, where it picks, the next token) and this token's part of the cache: keys, values, and where a
window of neighbours reads it later, the token itself. `absorb.p`, made of it, gives only that part:
for tokens of a prompt behind which others follow.

    decoder.json                  format, context, metadata
    step.0.onnx, step.1.onnx, …   programs as any other
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx

from torusformer import ArtifactError
from torusformer.fhe_compile.decoding.names import (
    LOGITS,
    NEXT,
    NOISE,
    TOKEN,
    absorb_name,
    step_name,
    token_name,
)
from torusformer.fhe_compile.decoding.picking import (
    LEVELS,
    WINDOW_KEY,
    Window,
    logits_of,
    noise_port,
    window_for,
    window_of,
    window_to_json,
    with_picking,
)
from torusformer.fhe_compile.frontend.lowering import lower
from torusformer.fhe_compile.passes.dead_nodes import remove_dead_nodes
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import IntArray, Port, Program, Reshape
from torusformer.fhe_compile.program.onnx_io import load_program, save_program
from torusformer.folders import output_folder
from torusformer.strict_json import parse_texts, read_json
from torusformer.versions import check_versions, read_versions

FORMAT, FORMAT_VERSION = "torusformer-decoder", 1
INDEX = "decoder.json"
MAX_CONTEXT = 4096


@dataclass(frozen=True, eq=False)
class DecoderProgram:
    """`steps[p]` for every position of the context; task, labels and window as metadata."""

    steps: tuple[Program, ...]
    metadata: Mapping[str, str]

    @property
    def context(self) -> int:
        """Tokens that it takes at most."""
        return len(self.steps)

    @property
    def picks(self) -> bool:
        """Whether a step also gives the next token."""
        return any(port.name == NEXT for port in self.steps[0].outputs)

    def with_picking(self) -> DecoderProgram:
        """Every step with an input for noise and the next token as an output."""
        return replace(self, steps=tuple(with_picking(step) for step in self.steps))

    @cached_property
    def functions(self) -> Mapping[str, Program]:
        """All programs by the names that they have in a module; the last position has no absorb."""
        absorbs = {absorb_name(p): absorb(step) for p, step in enumerate(self.steps[:-1])}
        return absorbs | {step_name(p): step for p, step in enumerate(self.steps)}

    def run(self, name: str, values: Mapping[str, IntArray]) -> dict[str, IntArray]:
        """A function in the clear, on those of the values that it takes: its outputs by name."""
        program = self.functions[name]
        found = interpret(program, {port.name: values[port.name] for port in program.inputs})
        return {port.name: found[port.name] for port in program.outputs}

    @property
    def labels(self) -> tuple[str, ...]:
        """The character of each token."""
        return parse_texts(self.metadata["labels"])

    @property
    def window(self) -> Window:
        """How logits are read where a token is picked."""
        return window_of(self.metadata)

    @property
    def noise(self) -> Port:
        """Of one step."""
        taken = (port for port in self.steps[0].inputs if port.name == NOISE)
        return next(taken, None) or noise_port(logits_of(self.steps[0]))


def absorb(step: Program) -> Program:
    """A step without its logits and all that only they need: what it leaves in the cache."""
    entries = tuple(port for port in step.outputs if port.name not in (LOGITS, NEXT))
    program = remove_dead_nodes(step.replace(outputs=entries))
    read = {name for node in program.nodes for name in node.inputs}
    return program.replace(inputs=tuple(port for port in program.inputs if port.name in read))


def lower_decoder(
    graphs: Iterable[tuple[str, onnx.ModelProto]],
    metadata: Mapping[str, str],
    levels: int = LEVELS,
) -> DecoderProgram:
    """Programs of the graphs `step.0`, `step.1`, … in this order, as they are exported.

    Where a token is picked, `levels` levels of logits are told apart.
    """
    steps = [lower(graph) for _, graph in graphs]
    if not steps:
        raise ArtifactError("the graphs: step.0 is missing; export the decoder again")
    steps = _with_neighbours(steps)
    window = window_for(logits_of(steps[0]), levels)
    metadata = {**metadata, WINDOW_KEY: window_to_json(window)}
    return DecoderProgram(tuple(step.replace(metadata=metadata) for step in steps), metadata)


def _with_neighbours(steps: Sequence[Program]) -> list[Program]:
    """Every step whose token a later one reads leaves it in the cache as it is."""
    read = {port.name for step in steps for port in step.inputs}
    return [
        _leaving(step, name) if (name := token_name(p)) in read else step
        for p, step in enumerate(steps)
    ]


def _leaving(step: Program, name: str) -> Program:
    (token,) = (port for port in step.inputs if port.name == TOKEN)
    copy = Reshape(name, TOKEN, (TOKEN,), token.shape)
    return step.replace(
        nodes=(*step.nodes, copy), outputs=(*step.outputs, replace(token, name=name))
    )


def save_decoder(decoder: DecoderProgram, folder: Path) -> None:
    """Write all programs into a new folder, or none."""
    with output_folder(folder, "decoder") as new:
        for position, program in enumerate(decoder.steps):
            save_program(program, new / f"step.{position}.onnx")
        index = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "context": decoder.context,
            "metadata": dict(decoder.metadata),
        }
        (new / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def load_decoder(folder: Path) -> DecoderProgram:
    """Inverse of `save_decoder`."""
    path = folder / INDEX
    if not path.is_file():
        raise ArtifactError(f"{folder}: has no {INDEX}; give a decoder that `train` wrote")
    check_versions(read_versions(folder, "decoder"), ("torusformer",), str(folder))
    try:
        index = read_json(path)
        known = index["format"], index["format_version"]
        context, metadata = index["context"], dict(index["metadata"])
        if type(context) is not int or not 0 <= context <= MAX_CONTEXT:
            raise ValueError(f"a context of {context!r}, the limit is {MAX_CONTEXT}")
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata are no texts")
        window_of(metadata), parse_texts(metadata["labels"])  # what a text cannot do without
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: truncated or not JSON of ours ({error}); lower it again"
        ) from error
    if known != (FORMAT, FORMAT_VERSION):
        raise ArtifactError(
            f"{path}: is {known[0]} version {known[1]}, this release reads {FORMAT} version "
            f"{FORMAT_VERSION}; lower it again"
        )
    steps = tuple(load_program(folder / f"step.{p}.onnx") for p in range(context))
    if not steps:
        raise ArtifactError(f"{folder}: step.0 is missing; export the decoder again")
    return DecoderProgram(steps, metadata)
