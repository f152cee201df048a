"""Random models as others write them: convolutions, keyword spotters, exports from Keras and FINN.

A model is drawn from a seed alone. Scales have no common factors, so that few numbers fall on ties.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tests.qonnx_graphs import DOMAINS, GraphMaker, runtime_outputs

SCALES = (0.313, 0.477, 0.529, 0.761, 0.917)


class Foreign(GraphMaker):
    """A graph that grows layer by layer; `x` is the last tensor, `size` its shape."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.domain = self.pick(DOMAINS)
        self.style = self.pick(("brevitas", "keras", "finn"))
        self.planar = self.chance(0.6)
        channels = int(self.rng.integers(1, 4))
        spatial = (7, 6) if self.planar else (12,)
        super().__init__((1, channels, *spatial))
        self.size: tuple[int, ...] = self.shape
        self.x = self.act("x", signed=True)

    def pick(self, options: Any) -> Any:
        """One of them."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < p)

    def act(self, x: str, signed: bool = False, ties: bool = False) -> str:
        """An activation's quantizer; no sign where a sum is 0 but for the runtime's rounding."""
        if self.style == "finn" and not ties and self.chance(0.4):
            scale = self.const(self.pick(SCALES))
            return self.op("BipolarQuant", x, scale, domain=self.domain)
        bits, kind = int(self.rng.integers(2, 4)), self.pick(("Quant", "IntQuant"))
        scale = self.pick(SCALES) if self.style != "keras" else 2.0 ** -int(self.rng.integers(0, 2))
        return self.quant(x, scale, bits, signed=signed, kind=kind, domain=self.domain)

    def weights(self, shape: tuple[int, ...]) -> str:
        """Quantized, of one scale or one a channel, by a node or already folded."""
        channels = (shape[0], *(1 for _ in shape[1:]))
        scale = np.full(channels, self.pick(SCALES)) / 2
        if self.chance(0.5):
            scale = self.rng.uniform(0.2, 0.4, channels)
        if self.style == "finn" and self.chance(0.5):
            one = self.const(scale)
            signs = self.const(self.rng.normal(0, 1, shape))
            return self.op("BipolarQuant", signs, one, domain=self.domain)
        ints = self.rng.integers(-1, 2, shape)
        if self.chance(0.2):
            return self.const(ints * scale)
        return self.quant(self.const(ints * scale), scale, 2, narrow=True, domain=self.domain)

    def conv(self) -> None:
        """A convolution, its bias apart or not, batch norm and activation after it."""
        _, channels, *spatial = self.size
        depthwise = channels > 1 and self.chance(0.3)
        groups = channels if depthwise else 1
        outputs = channels * self.pick((1, 2)) if depthwise else int(self.rng.integers(1, 4))
        kernel = [int(self.rng.integers(1, min(3, n) + 1)) for n in spatial]
        strides = [self.pick((1, 1, 2)) for _ in spatial]
        attributes: dict[str, Any] = {"group": groups, "strides": strides, "kernel_shape": kernel}
        if self.chance(0.3):
            attributes["auto_pad"] = self.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
        elif self.chance(0.5):
            attributes["pads"] = [(k - 1) // 2 for k in kernel] * 2
        weights = self.weights((outputs, channels // groups, *kernel))
        bias = self.rng.normal(0, 0.5, outputs)
        given = [self.x, weights]
        if self.style == "brevitas" and self.chance(0.5):
            given.append(self.const(bias))
        y = self.op("Conv", *given, **attributes)
        if self.style == "keras":
            y = self.op("Add", y, self.const(bias.reshape(-1, *(1 for _ in spatial))))
        ties = self.chance(0.5)
        if not ties:
            parts = self.rng.uniform(0.5, 1.5, (4, outputs)) * [[1], [0.3], [0.1], [1]]
            y = self.op("BatchNormalization", y, *(self.const(part) for part in parts))
        self.size = tuple(onnx_shape(self, y))
        if self.chance(0.5):
            y = self.op(self.pick(("Relu", "Relu", "Tanh", "Sigmoid")), y)
        pooled = self.chance(0.3) and min(self.size[2:]) >= 2
        if pooled and self.chance(0.5):  # before the quantizer
            y, pooled = self.pool(y, "MaxPool"), False
        self.x = self.act(y, signed=self.chance(0.3), ties=ties)
        if pooled:
            self.x = self.pool(self.x, self.pick(("MaxPool", "AveragePool")))
            self.x = self.act(self.x, signed=True, ties=True)

    def pool(self, x: str, kind: str) -> str:
        """Two places wide."""
        rank = len(self.size) - 2
        y = self.op(kind, x, kernel_shape=[2] * rank, strides=[self.pick((1, 2))] * rank)
        self.size = tuple(onnx_shape(self, y))
        return y

    def head(self) -> str:
        """Flat or averaged, a linear layer, and perhaps what changes no class."""
        if self.chance(0.4):
            y = self.op(self.pick(("GlobalAveragePool", "GlobalMaxPool")), self.x)
            y = self.act(self.op("Flatten", y), signed=True, ties=True)
            width = self.size[1]
        else:
            order = (0, *range(2, len(self.size)), 1)
            y = self.x
            if self.style == "keras":  # channels last, as Keras flattens
                y = self.op("Transpose", y, perm=list(order))
            y = self.op("Reshape", y, self.const([1, -1], np.int64))
            width = int(np.prod(self.size[1:]))
        weights = self.weights((3, width))
        if self.style == "keras":
            y = self.op("MatMul", y, self.op("Transpose", weights, perm=[1, 0]))
            return self.op("Add", y, self.const(self.rng.normal(0, 1, 3)))
        return self.op("Gemm", y, weights, self.const(self.rng.normal(0, 1, 3)), transB=1)


def onnx_shape(g: GraphMaker, tensor: str) -> list[int]:
    """Of a tensor of the graph so far."""
    (found,) = runtime_outputs(g.model(tensor), np.zeros(g.shape))
    return list(found.shape)


def foreign_model(seed: int) -> onnx.ModelProto:
    """A model of one to three convolutions and a head."""
    g = Foreign(seed)
    for _ in range(int(g.rng.integers(1, 4))):
        g.conv()
    return g.model(g.head())
