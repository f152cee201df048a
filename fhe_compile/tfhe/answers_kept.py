"""A program and samples in; how many of its answers another program changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.fhe_compile.program.nodes import IntArray, Program, Table
from torusformer.fhe_compile.program.ports import dequantize_array
from torusformer.fhe_compile.tfhe.batches import Sample, interpret_all, runs_together


class AnswersKept:
    """What a program answers on samples, to compare others with.

    Of a classifier (one output, one row of logits) a loss is the share of samples that get another
    class; of anything else the largest difference of an output, in parts of its largest magnitude.
    """

    def __init__(self, program: Program, samples: Sequence[Sample]) -> None:
        if not samples:
            raise InputError("there are no samples to compare answers on; give some")
        self.samples, self.ports = samples, program.outputs
        (shape, *others) = [port.shape for port in program.outputs]
        self.is_classifier = not others and shape[-1] > 1 and int(np.prod(shape)) == shape[-1]
        self._names = [port.name for port in self.ports]
        reads = {node.inputs[0] for node in program.nodes if isinstance(node, Table)}
        names = [*dict.fromkeys((*self._names, *reads))]
        self._together = runs_together(program, samples, names)
        values = interpret_all(program, samples, names, together=self._together)
        self.sums: dict[str, IntArray] = {name: values[name] for name in reads}
        self._answers = self._reals(values)

    def loss(self, program: Program) -> float:
        """Of a program with the same ports."""
        values = interpret_all(program, self.samples, self._names, together=self._together)
        found = self._reals(values)
        if self.is_classifier:
            (before,), (after,) = self._answers, found
            classes = [y.reshape(len(y), -1).argmax(axis=1) for y in (before, after)]
            return float((classes[0] != classes[1]).mean())
        return max(
            float(np.abs(after - before).max() / max(1e-30, np.abs(before).max()))
            for before, after in zip(self._answers, found, strict=True)
        )

    @property
    def about(self) -> str:
        """What a loss is, for people."""
        if self.is_classifier:
            return f"share of {len(self.samples)} samples that get another class"
        return f"largest difference on {len(self.samples)} samples, in parts of the largest output"

    def _reals(self, values: Mapping[str, IntArray]) -> list[NDArray[np.float64]]:
        return [dequantize_array(port, values[port.name]) for port in self.ports]
