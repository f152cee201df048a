"""What client and server agree on of one model compiled for several lengths: a function for each.

All functions are one module, so they take one set of keys. That of 8 tokens is `tokens8`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from torusformer.fhe_compile.deployment.interface import Interface
from torusformer.fhe_compile.program.nodes import Port

_NAME = re.compile(r"tokens([1-9]\d{0,4})")


def length_name(tokens: int) -> str:
    """The name of a length's function."""
    return f"tokens{tokens}"


@dataclass(frozen=True, eq=False)
class LengthsInterface(Interface):
    """`circuit_id` names the compiled module of all lengths."""

    ARTEFACT: ClassVar[str] = "deployment of lengths"
    FORMAT: ClassVar[str] = "torusformer-lengths-deployment"

    @property
    def lengths(self) -> tuple[int, ...]:
        """In tokens, the shortest first."""
        return tuple(sorted(int(name.removeprefix("tokens")) for name in self.functions))

    def input_of(self, length: int) -> Port:
        """What a length takes: ids of so many tokens."""
        return self.functions[length_name(length)].inputs[0].port

    def output_of(self, length: int) -> Port:
        """What a length gives: the same of each."""
        return self.functions[length_name(length)].outputs[0].port

    def check(self) -> None:
        """Functions that take tokens of one vocabulary, so many as they are called."""
        if not self.functions or not all(map(_NAME.fullmatch, self.functions)):
            raise ValueError("functions that are no lengths")
        for name, function in self.functions.items():
            if len(function.inputs) != 1 or len(function.outputs) != 1:
                raise ValueError(f"{name} of other than one input and one output")
        first = self.lengths[0]
        for length in self.lengths:
            port = self.input_of(length)
            if port.vocabulary is None or port.real_shape[-1:] != (length,):
                raise ValueError(f"{length_name(length)} that takes {port.real_shape}")
            if port.vocabulary != self.input_of(first).vocabulary:
                raise ValueError("lengths of different vocabularies")
            if self.output_of(length).shape != self.output_of(first).shape:
                raise ValueError("lengths of different outputs")

    @classmethod
    def listed(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Where in its JSON the ports of each function are."""
        return dict(data["functions"])
