"""A program and samples in; how many of its answers another program changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.fhe_compile.program.nodes import IntArray, Program, Table
from torusformer.fhe_compile.program.ports import dequantize_array
from torusformer.fhe_compile.tfhe.batches import Sample, interpret_all, runs_together

Reals = list[NDArray[np.float64]]  # an output each, (N, *its shape)


class AnswersKept:
    """What is answered on samples, by a program or by the model that it comes from.

    Of a classifier (one output, one row of logits) a loss is the share of samples that get another
    class; of anything else the largest difference of an output, in parts of its largest magnitude.
    """

    def __init__(
        self,
        program: Program,
        samples: Sequence[Sample],
        reference: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        """`reference`: the right answers by output, (N, *shape); without, the program's own."""
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
        self.own = _reals(program, values)
        self.right = self.own
        if reference is not None:
            found = zip(self.ports, self.own, strict=True)
            self.right = [reference[port.name].reshape(own.shape) for port, own in found]

    def answers(self, program: Program) -> Reals:
        """Of a program with the same ports, but for their zero points."""
        values = interpret_all(program, self.samples, self._names, together=self._together)
        return _reals(program, values)

    def loss(self, program: Program) -> float:
        """Of a program with the same ports."""
        return self.loss_of(self.answers(program))

    def loss_of(self, found: Reals) -> float:
        """Of answers."""
        if self.is_classifier:
            (before,), (after,) = self.right, found
            classes = [y.reshape(len(y), -1).argmax(axis=1) for y in (before, after)]
            return float((classes[0] != classes[1]).mean())
        return max(
            float(np.abs(after - before).max() / max(1e-30, np.abs(before).max()))
            for before, after in zip(self.right, found, strict=True)
        )

    def squared_change(self, found: Reals) -> float:
        """Of answers against the program's own: mean square, in parts of their mean square."""
        return sum(
            float(np.square(after - before).mean() / max(1e-30, np.square(before).mean()))
            for before, after in zip(self.own, found, strict=True)
        )

    def error(self, found: Reals) -> NDArray[np.float64]:
        """How much too large each logit of a classifier is on average, (*shape); else nothing."""
        return (found[0] - self.right[0]).mean(axis=0) if self.is_classifier else np.zeros(())

    @property
    def about(self) -> str:
        """What a loss is, for people."""
        if self.is_classifier:
            return f"share of {len(self.samples)} samples that get another class"
        return f"largest difference on {len(self.samples)} samples, in parts of the largest output"


def _reals(program: Program, values: Mapping[str, IntArray]) -> Reals:
    return [dequantize_array(port, values[port.name]) for port in program.outputs]


def corrected(program: Program, error: NDArray[np.float64]) -> Program:
    """The program whose client takes so much off its logits: another zero point of each."""
    if not error.any():
        return program
    (port,) = program.outputs
    zero_point = np.asarray(port.zero_point + error / port.scale, np.float64)
    return program.replace(outputs=(replace(port, zero_point=zero_point),))
