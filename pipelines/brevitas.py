"""Brevitas module and samples in, a TFHE circuit that takes and gives real numbers out: one call.

Who used Concrete ML's `compile_brevitas_qat_model` changes one line:

>>> from torusformer.pipelines.brevitas import compile_brevitas   # doctest: +SKIP
>>> circuit = compile_brevitas(model, x_train[:500])              # doctest: +SKIP
>>> circuit.forward(x_test[:10], fhe="simulate")                  # doctest: +SKIP

`lower`, `plan` and `compile_program` are the same in steps, for what is a file already.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torusformer import InputError, LoweringError
from torusformer.fhe_compile import Circuit, Plan, Program, compile_plan, lower, narrow, plan
from torusformer.fhe_compile.circuit.circuit import Mode
from torusformer.fhe_compile.prices.failure import EXACT, check_p_error
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.ports import dequantize_array
from torusformer.pipelines.input_quant import quantize_inputs, unquantized_inputs
from torusformer.pipelines.values import to_integers, to_samples

if TYPE_CHECKING:
    from torch import Tensor, nn

    Samples = NDArray[Any] | Tensor

_ELSEWHERE = {
    "configuration": "Concrete's parameters are chosen by the plan; leave it out",
    "artifacts": "nothing is kept of a compilation; leave it out",
    "show_mlir": "the circuit's operations are those of plan.encoding; leave it out",
    "reduce_sum_copy": "sums need no copies here; leave it out",
}


def compile_brevitas(
    model: nn.Module,
    inputset: Samples | tuple[Samples, ...],
    n_bits: int | None = None,
    rounding_threshold_bits: int | Mapping[str, Any] | None = None,
    p_error: float | None = None,
    *,
    global_p_error: float | None = None,
    within: float | None = None,
    output_onnx_file: str | Path | None = None,
    verbose: bool = False,
    device: str = "cpu",
    inputs_encryption_status: Sequence[str] | None = None,
    configuration: object = None,
    artifacts: object = None,
    show_mlir: bool = False,
    reduce_sum_copy: bool = False,
    **lowering: Any,
) -> BrevitasCircuit:
    """Export, lower, plan and compile a module of Brevitas's quantized layers.

    Args:
        model: the trained module; it is exported in evaluation mode and left as it was.
        inputset: samples (N, ...), or one array for each input. The first one gives the shape;
            all are what `n_bits` and `within` are chosen by. Ranges of sums are proved from the
            weights, so no input can overflow, whatever the samples are.
        n_bits: of inputs that the model does not quantize by itself. Its own quantizers stay.
        rounding_threshold_bits: sums that tables read wider are rounded to so many bits, exactly.
        p_error: the chance that one bootstrap is wrong; 2**-64 unless given.
        global_p_error: that of any of them, in place of `p_error`.
        within: the share of samples whose answer may change: sums are rounded, or wrap, as far as
            that allows (`narrow`).
        output_onnx_file: where to keep the QONNX graph.
        verbose: whether stages are told on stderr.
        device: "cpu"; nothing runs elsewhere.
        inputs_encryption_status: all "encrypted".
        configuration: not taken, as `artifacts`, `show_mlir` and `reduce_sum_copy`.
        lowering: more keyword arguments of `lower`, as `tokens`.

    Raises:
        InputError: an argument that means nothing here, or samples that do not fit.
        LoweringError: the module does not run or export, or a layer does not lower.
        BitWidthError: a sum too wide for a table.
    """
    given = {
        "configuration": configuration,
        "artifacts": artifacts,
        "show_mlir": show_mlir,
        "reduce_sum_copy": reduce_sum_copy,
    }
    for name, value in given.items():
        if value:
            raise InputError(f"{name} is an argument of Concrete ML: {_ELSEWHERE[name]}")
    if device != "cpu":
        raise InputError(f"device is {device!r}; circuits run on the processor, say 'cpu'")
    if any(status != "encrypted" for status in inputs_encryption_status or ()):
        raise InputError("inputs_encryption_status: all inputs are encrypted; leave it out")
    if p_error is not None and global_p_error is not None:
        raise InputError("p_error and global_p_error say the same in two ways; give one of them")
    tell = (lambda stage: print(stage, file=sys.stderr, flush=True)) if verbose else _silent
    samples = _tensors(inputset)
    tell("exporting")
    graph = _exported(model, samples)
    names = [value.name for value in graph.graph.input]
    if lacking := unquantized_inputs(graph.graph):
        if n_bits is None:
            raise LoweringError(
                f"input {lacking[0]!r} meets no quantizer; say n_bits, or start the model with a "
                "QuantIdentity"
            )
        arrays = {name: np.asarray(x) for name, x in zip(names, samples, strict=False)}
        graph = quantize_inputs(graph, {name: arrays[name] for name in lacking}, n_bits)
    if output_onnx_file is not None:
        onnx.save(graph, str(output_onnx_file))
    tell("lowering")
    program = lower(graph, **lowering)
    bits = _threshold(rounding_threshold_bits)
    if bits is not None or within is not None:
        tell("rounding")
        reals = {port.name: _array(x) for port, x in zip(program.inputs, samples, strict=True)}
        integers = to_samples(program.inputs, reals)
        program = narrow(program, integers, bits=bits, within=within).program
    tell("planning")
    made = plan(program, p_error=check_p_error(EXACT if p_error is None else p_error))
    if global_p_error is not None:
        share = -math.expm1(math.log1p(-check_p_error(global_p_error)) / max(1, made.pbs_total))
        made = plan(program, p_error=share)
    return BrevitasCircuit(compile_plan(made, progress=tell))


class BrevitasCircuit:
    """A compiled module: real numbers in, real numbers out, keys at the first encrypted run.

    `fhe_circuit` is the circuit on integers; `save_deployment` makes client and server of it.
    """

    def __init__(self, circuit: Circuit) -> None:
        self.fhe_circuit = circuit

    @property
    def program(self) -> Program:
        """The integers that the circuit computes."""
        return self.fhe_circuit.program

    @property
    def plan(self) -> Plan:
        """What a run costs."""
        return self.fhe_circuit.plan

    def keygen(self, force: bool = False) -> None:
        """Make the secret and evaluation keys; once, unless `force`."""
        self.fhe_circuit.keygen(force)

    def forward(self, *x: Samples, fhe: Mode = "disable") -> Any:
        """The outputs (N, ...) of samples (N, ...): an array, or a tuple where there are several.

        "disable" computes in the clear, "simulate" on the circuit with its noise, "execute"
        encrypted, one sample after the other.
        """
        return self.dequantize_output(*self.quantized_forward(*self.quantize_input(*x), fhe=fhe))

    __call__ = run = forward

    def quantize_input(self, *x: Samples) -> tuple[IntArray, ...]:
        """Integers (N, *port) of samples, input by input, as the client makes them."""
        ports = self.program.inputs
        if len(x) != len(ports):
            raise InputError(f"{len(x)} inputs are given, the model takes {len(ports)}")
        rows = tuple(to_integers(port, _array(given)) for port, given in zip(ports, x, strict=True))
        if len({len(row) for row in rows}) > 1:
            raise InputError(f"inputs differ in number of samples: {[len(row) for row in rows]}")
        return rows

    def quantized_forward(self, *q_x: IntArray, fhe: Mode = "disable") -> tuple[IntArray, ...]:
        """Integers of the outputs (N, *port) of integers of the inputs."""
        names = [port.name for port in self.program.inputs]
        found = [
            self.fhe_circuit.run(dict(zip(names, row, strict=True)), fhe)
            for row in zip(*q_x, strict=True)
        ]
        return tuple(np.stack([q_y[p.name] for q_y in found]) for p in self.program.outputs)

    def dequantize_output(self, *q_y: IntArray) -> Any:
        """What integers of the outputs mean: an array (N, ...), or a tuple of several."""
        ports = self.program.outputs
        found = tuple(
            np.stack([dequantize_array(port, row) for row in rows])
            for port, rows in zip(ports, q_y, strict=True)
        )
        batched = tuple(y[:, 0] if y.ndim > 1 and y.shape[1] == 1 else y for y in found)
        return batched[0] if len(batched) == 1 else batched


def _threshold(given: int | Mapping[str, Any] | None) -> int | None:
    """Bits that sums keep, of what Concrete ML takes."""
    if given is None or isinstance(given, int):
        return given
    known = {"n_bits", "method"}
    how = str(getattr(given.get("method"), "name", given.get("method", "EXACT"))).upper()
    if how != "EXACT" or not isinstance(given.get("n_bits"), int) or set(given) - known:
        raise InputError(
            f"rounding_threshold_bits is {dict(given)}; sums are rounded exactly here, to a number "
            "of bits: say 5"
        )
    return int(given["n_bits"])


def _silent(_: str) -> None:
    """Say nothing."""


def _array(x: Samples) -> NDArray[Any]:
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def _tensors(inputset: Samples | tuple[Samples, ...]) -> tuple[Tensor, ...]:
    """One tensor for each input, real numbers in float32."""
    import torch

    given = inputset if isinstance(inputset, tuple) else (inputset,)
    tensors = tuple(torch.as_tensor(_array(x)) for x in given)
    if not tensors or any(not x.ndim or not len(x) for x in tensors):
        raise InputError("the inputset holds no samples; give an array (N, ...)")
    return tuple(x.to(torch.float32) if x.is_floating_point() else x for x in tensors)


def _exported(model: nn.Module, samples: tuple[Tensor, ...]) -> onnx.ModelProto:
    """The QONNX graph of a module, for one sample."""
    import torch

    from torusformer.pipelines import quiet_torch  # noqa: F401
    from torusformer.quantize.export import export_graph

    example = tuple(x[:1] for x in samples)
    names = ["x"] if len(example) == 1 else [f"x{i}" for i in range(len(example))]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            count = _outputs(model(*example))
        outputs = ["y"] if count == 1 else [f"y{i}" for i in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            graph = export_graph(model, example, Path(folder) / "model.onnx", names, outputs)
            return _without_constant_outputs(graph)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LoweringError(
            f"the module cannot be run and exported on the first sample ({reason}); it takes one "
            "of shape (1, ...), as the inputset has"
        ) from error
    finally:
        model.train(training)


def _outputs(result: Any) -> int:
    """How many tensors a module gives; Brevitas's own kind of tensor, a tuple, is one."""
    several = isinstance(result, tuple | list) and not hasattr(result, "value")
    return len(result) if several else 1


def _without_constant_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what Brevitas's own tensors bring along: scale, zero point, bit width."""
    graph = model.graph
    reached = {value.name for value in graph.input}
    for node in graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
    kept = [value for value in graph.output if value.name in reached]
    del graph.output[:]
    graph.output.extend(kept)
    return model
