"""What client and server of a decoder agree on: as of any circuit, with ports by function."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from torusformer.fhe_compile.decoding.names import LOGITS, NEXT, NOISE, step_name
from torusformer.fhe_compile.decoding.picking import Window, noise_port, window_of
from torusformer.fhe_compile.deployment.interface import Interface
from torusformer.fhe_compile.program.nodes import Port


@dataclass(frozen=True, eq=False)
class DecoderInterface(Interface):
    """`circuit_id` names the compiled module of all functions."""

    ARTEFACT: ClassVar[str] = "decoder deployment"
    FORMAT: ClassVar[str] = "torusformer-decoder-deployment"

    @property
    def context(self) -> int:
        """Tokens that the cache takes at most."""
        return sum(name.startswith("step") for name in self.functions)

    @property
    def labels(self) -> tuple[str, ...]:
        """The character of each token."""
        return tuple(json.loads(self.metadata["labels"]))

    @property
    def picks(self) -> bool:
        """Whether the server picks tokens."""
        return NEXT in self.functions[step_name(0)].by_name

    @property
    def window(self) -> Window:
        """How logits are read where a token is picked."""
        return window_of(self.metadata)

    @property
    def noise(self) -> Port:
        """Of one step."""
        if self.picks:
            return self.functions[step_name(0)].by_name[NOISE].port
        return noise_port(self.logits(0))

    def logits(self, position: int) -> Port:
        """Of the step at a position, where the server does not pick tokens."""
        return self.functions[step_name(position)].by_name[LOGITS].port

    @classmethod
    def listed(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Where in its JSON the ports of each function are."""
        return dict(data["functions"])
