"""The programs of a decoder, one for each position: what a module is compiled from.

`step.p` takes the token at position p and what earlier tokens left in the cache, and gives logits
(closed, also the next token) and this token's part of the cache. `absorb.p` gives only that part:
for tokens of a prompt behind which others follow.

    decoder.json                  format, context, metadata
    step.0.onnx, absorb.0.onnx, … programs as any other
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from torusformer import ArtifactError
from torusformer.fhe_compile.decoding.closing import (
    LEVELS,
    WINDOW_KEY,
    Window,
    close,
    logits_of,
    noise_port,
    window_for,
    window_of,
    window_to_json,
)
from torusformer.fhe_compile.decoding.names import NEXT, absorb_name, step_name
from torusformer.fhe_compile.frontend.lowering import lower
from torusformer.fhe_compile.program.nodes import Port, Program
from torusformer.fhe_compile.program.onnx_io import load_program, save_program
from torusformer.folders import output_folder
from torusformer.versions import check_versions, read_versions

FORMAT, FORMAT_VERSION = "torusformer-decoder", 1
INDEX = "decoder.json"


@dataclass(frozen=True, eq=False)
class DecoderProgram:
    """`steps[p]` for every position of the context, `absorbs[p]` for all but the last."""

    steps: tuple[Program, ...]
    absorbs: tuple[Program, ...]
    metadata: Mapping[str, str]

    @property
    def context(self) -> int:
        """Tokens that it takes at most."""
        return len(self.steps)

    @property
    def closed(self) -> bool:
        """Whether a step also picks the next token."""
        return any(port.name == NEXT for port in self.steps[0].outputs)

    def functions(self) -> dict[str, Program]:
        """All programs by the names that they have in a module."""
        absorbs = {absorb_name(p): program for p, program in enumerate(self.absorbs)}
        return absorbs | {step_name(p): program for p, program in enumerate(self.steps)}

    def close(self) -> DecoderProgram:
        """Every step with an input for noise and the next token as an output."""
        return replace(self, steps=tuple(close(step) for step in self.steps))

    @property
    def labels(self) -> tuple[str, ...]:
        """The character of each token."""
        return tuple(json.loads(self.metadata["labels"]))

    @property
    def window(self) -> Window:
        """How logits are read where a token is picked."""
        return window_of(self.metadata)

    @property
    def noise(self) -> Port:
        """Of one step."""
        return noise_port(logits_of(self.steps[0]))


def lower_decoder(
    graphs: Iterable[tuple[str, onnx.ModelProto]],
    metadata: Mapping[str, str],
    levels: int = LEVELS,
) -> DecoderProgram:
    """Programs of the graphs `step.p` and `absorb.p`, in any order.

    Where a token is picked, `levels` levels of logits are told apart.
    """
    decoder = _ordered({name: lower(graph) for name, graph in graphs}, metadata, "the graphs")
    window = window_for(logits_of(decoder.steps[0]), levels)
    metadata = {**metadata, WINDOW_KEY: window_to_json(window)}
    steps, absorbs = (
        tuple(program.replace(metadata=metadata) for program in programs)
        for programs in (decoder.steps, decoder.absorbs)
    )
    return DecoderProgram(steps, absorbs, metadata)


def _ordered(
    found: Mapping[str, Program], metadata: Mapping[str, str], said: str
) -> DecoderProgram:
    count = sum(name.startswith("step.") for name in found)
    wanted = [f"step.{p}" for p in range(count)] + [f"absorb.{p}" for p in range(count - 1)]
    if missing := [name for name in wanted if name not in found] or ["step.0"] * (not count):
        raise ArtifactError(f"{said}: {missing[0]} is missing; export the decoder again")
    programs = [found[name] for name in wanted]
    return DecoderProgram(tuple(programs[:count]), tuple(programs[count:]), dict(metadata))


def save_decoder(decoder: DecoderProgram, folder: Path) -> None:
    """Write all programs into a new folder, or none."""
    with output_folder(folder, "decoder") as new:
        for kind, programs in (("step", decoder.steps), ("absorb", decoder.absorbs)):
            for position, program in enumerate(programs):
                save_program(program, new / f"{kind}.{position}.onnx")
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
        index = json.loads(path.read_text())
        known = index["format"], index["format_version"]
        context, metadata = int(index["context"]), dict(index["metadata"])
        window_of(metadata), json.loads(metadata["labels"])  # what a text cannot do without
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: truncated or not JSON of ours; lower it again") from error
    if known != (FORMAT, FORMAT_VERSION):
        raise ArtifactError(
            f"{path}: is {known[0]} version {known[1]}, this release reads {FORMAT} version "
            f"{FORMAT_VERSION}; lower it again"
        )
    names = [f"step.{p}" for p in range(context)] + [f"absorb.{p}" for p in range(context - 1)]
    found = {name: load_program(folder / f"{name}.onnx") for name in names}
    return _ordered(found, metadata, str(folder))
