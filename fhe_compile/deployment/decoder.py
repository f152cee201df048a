"""What client and server of a decoder agree on: as of any circuit, with ports by function."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torusformer.fhe_compile.decoding.names import FEEDBACK, LOGITS, NEXT, NOISE, step_name
from torusformer.fhe_compile.decoding.picking import WIDEST_RING, Window, noise_port, window_of
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
        labels = json.loads(self.metadata["labels"])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError("labels that are not a list of characters")
        return tuple(labels)

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

    def check(self) -> None:
        """Steps from the first position on, each with its answer; tokens with their characters."""
        count, answer = len(self.labels), NEXT if self.picks else LOGITS
        for position in range(max(1, self.context)):
            port = self.functions[step_name(position)].by_name[answer].port
            if math.prod(port.shape) != count:
                raise ValueError(f"{count} labels and {answer} of shape {port.shape}")
        layouts: dict[str, tuple[object, int]] = {}
        for function in self.functions.values():
            for name, encoded in function.by_name.items():
                layout = (encoded.base.tolist(), encoded.bits)
                if name not in (LOGITS, NOISE):  # what passes from function to function
                    passed = FEEDBACK.get(name, name)
                    if layouts.setdefault(passed, layout) != layout:
                        raise ValueError(f"two layouts of {name!r}")
        window = self.window
        limits = (
            (window.floor, -(2**62), 2**62),
            (window.lsbs, 0, 62),
            (window.levels, 1, 2**16),
            (window.ring, 0, WIDEST_RING),
            (window.top, -(2**62), 2**62),
            (window.width, 1 if window.ring else 0, 2**62),
        )
        if not all(type(n) is int and lo <= n <= hi for n, lo, hi in limits):
            raise ValueError("a window that cannot be")

    @classmethod
    def listed(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Where in its JSON the ports of each function are."""
        return dict(data["functions"])
