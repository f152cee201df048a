"""`python -m tests.fuzz.generated`: random QONNX models over every operator, through every stage.

Each is lowered, or refused by name. Then, bit for bit: what the graph computes in floats (ONNX
Runtime node by node, QONNX's operators by their definition) = the interpreter = ONNX Runtime of
`program.onnx` = Concrete's graph = its simulation; of some, small ones, = what is decrypted. 1
where anything differs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import onnxruntime

from tests.drawn_graphs import Model
from tests.drawn_models import NAMES, draw
from tests.qonnx_graphs import nudged, runtime_outputs
from torusformer import TorusformerError
from torusformer.fhe_compile import Program, compile_plan, interpret, lower, plan
from torusformer.fhe_compile.circuit.circuit import Module, compile_module
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.onnx_io import to_onnx
from torusformer.fhe_compile.program.ports import quantize_array
from torusformer.progress import Progress
from torusformer.tables import table

SAMPLES = 4
NUDGE = 2e-5  # of a step: above what float32 loses, far below what a wrong constant does
MOST_BITS, MOST_BOOTSTRAPS = 8, 1500  # of what is simulated
TINY_BITS, TINY_BOOTSTRAPS = 4, 24  # of what is encrypted
TOGETHER = 10  # encrypted models that share their keys
TRIES = 12  # to draw a model that is small enough to encrypt


@dataclass(frozen=True)
class Result:
    """`outcome`: exact, refused, fault, or large (more than is simulated or encrypted here)."""

    about: str
    seed: int
    tiny: bool
    outcome: str
    said: str = ""
    operators: frozenset[str] = frozenset()
    ties: int = 0  # samples that a float rounded could decide either way

    @property
    def again(self) -> str:
        """The command that repeats it."""
        way = " --encrypted" if self.tiny else ""
        return f"python -m tests.fuzz.generated --about {self.about!r} --seed {self.seed}{way}"


@dataclass(frozen=True)
class Simulated:
    """A model that came as far as simulation, and what its program gives for some inputs."""

    result: Result
    program: Program | None = None
    inputs: Sequence[dict[str, IntArray]] = ()
    expected: Sequence[dict[str, IntArray]] = ()


def simulated(about: str, seed: int, *, tiny: bool = False) -> Simulated:
    """One model through every stage but encryption, which `tiny` ones are small enough for."""
    result = Result(about, seed, tiny, "fault")
    try:
        return _simulated(draw(seed, about, tiny=tiny), result)
    except Exception as error:
        return Simulated(_ended(result, error))


def encrypted(models: Sequence[Simulated]) -> list[Result]:
    """The same models on ciphertexts, under keys that they share: those take the longest."""
    programs = {f"model{i}": m.program for i, m in enumerate(models) if m.program is not None}
    try:
        module = compile_module(programs)
    except Exception as error:
        if len(models) == 1:
            return [_ended(models[0].result, error)]
        return [result for model in models for result in encrypted([model])]
    return [_decrypted(module, name, m) for name, m in zip(programs, models, strict=True)]


def _decrypted(module: Module, name: str, model: Simulated) -> Result:
    try:
        found = [module.run(name, q_x, fhe="execute") for q_x in model.inputs[:2]]
        _same(model.expected[:2], found, "decryption")
    except Exception as error:
        return _ended(model.result, error)
    return model.result


def _ended(result: Result, error: Exception) -> Result:
    if isinstance(error, TorusformerError):
        return replace(result, outcome="refused", said=cause_of(str(error)))
    said = "".join(traceback.format_exception(error))
    return replace(result, outcome="fault", said=said)


def cause_of(message: str) -> str:
    """An error's sentence without the layer and what is particular to one model."""
    said = re.sub(r"^(the graph|net|output)( \(\w+\))?: ", "", message.partition("; ")[0])
    said = re.sub(r"node '[^']*' ", "", said)
    said = re.sub(r"'[^']*'", "…", said)
    said = re.sub(r"[(\[]-?\d[-\d., ]*[)\]]", "N", said)  # a shape or a list
    return re.sub(r"\d[\d,.]*", "N", said)


def _simulated(drawn: Model, result: Result) -> Simulated:
    tiny = result.tiny
    program = lower(drawn.model)
    ties = _compare_with_floats(program, drawn)
    planned = plan(program)
    widest, bootstraps = (TINY_BITS, TINY_BOOTSTRAPS) if tiny else (MOST_BITS, MOST_BOOTSTRAPS)
    result = replace(result, operators=drawn.operators, ties=ties)
    inputs = _integer_inputs(program, drawn.seed)
    expected = [_outputs(program, q_x) for q_x in inputs]
    _same(expected, _by_runtime(program, inputs), "ONNX Runtime of program.onnx")
    moves = any(not _equal(expected[0], other) for other in expected[1:])
    small = planned.max_bit_width <= widest and planned.pbs_total <= bootstraps
    if not small or (tiny and (planned.pbs_total == 0 or not moves)):
        return Simulated(replace(result, outcome="large"))
    circuit = compile_plan(planned, simulate=True)
    _same(expected, [circuit.graph(q_x) for q_x in inputs], "Concrete's graph")
    _same(expected, [circuit.run(q_x, fhe="simulate") for q_x in inputs], "simulation")
    return Simulated(replace(result, outcome="exact"), program, inputs, expected)


def _compare_with_floats(program: Program, drawn: Model) -> int:
    """An AssertionError where the program's numbers are not the graph's; how many were ties."""
    rng, ties = np.random.default_rng(drawn.seed), 0
    (port,) = program.inputs
    (value,) = drawn.model.graph.input
    sizes = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    for _ in range(SAMPLES):
        if port.vocabulary is not None:
            x = rng.integers(0, port.vocabulary, sizes)
        elif value.type.tensor_type.elem_type != 1:
            x = rng.integers(0, 2, sizes)
        else:
            x = rng.normal(0, 2, sizes).astype(np.float32)
            x = np.rint(4 * x) / 4 if drawn.exact else x
        found = _outputs(program, {port.name: quantize_array(port, x)})
        differences = _differences(program, found, runtime_outputs(drawn.read, x))
        if not differences:
            continue
        for by in () if drawn.exact else (NUDGE, -NUDGE):
            with nudged(by):
                if not _differences(program, found, runtime_outputs(drawn.read, x)):
                    break
        else:
            if drawn.exact or not _tied(drawn, x):
                raise AssertionError(f"not what the graph computes: {'; '.join(differences)}")
        ties += 1
    return ties


def _tied(drawn: Model, x: np.ndarray) -> bool:
    """Whether the graph's own numbers depend on the last bit of a float."""
    answers = []
    for by in (NUDGE, -NUDGE):
        with nudged(by):
            answers.append(runtime_outputs(drawn.read, x))
    return any(not np.allclose(a, b, rtol=1e-3) for a, b in zip(*answers, strict=True))


def _differences(
    program: Program, found: dict[str, IntArray], reals: Sequence[np.ndarray]
) -> list[str]:
    """Of the integers that the graph's outputs are, from those of the program."""
    said = []
    for port, real in zip(program.outputs, reals, strict=True):
        if port.real_shape != real.shape:
            said.append(f"{port.name} has shape {real.shape}, not {port.real_shape}")
            continue
        scale, zero = np.asarray(port.scale, np.float64), np.asarray(port.zero_point, np.float64)
        steps = real.astype(np.float64) / scale + zero
        off = np.abs(steps - found[port.name])
        # What float32 leaves of a number, also where it cancels a bias of many steps.
        if (off > np.minimum(0.25, 1e-3 + 2e-6 * (np.abs(steps) + np.abs(zero)))).any():
            said.append(
                f"{port.name} is {np.rint(steps).tolist()}, not {found[port.name].tolist()}"
            )
    return said


def _integer_inputs(program: Program, seed: int) -> list[dict[str, IntArray]]:
    rng = np.random.default_rng(seed)
    (port,) = program.inputs
    if port.vocabulary is not None:
        ids = [rng.integers(0, port.vocabulary, port.real_shape) for _ in range(SAMPLES)]
        return [{port.name: quantize_array(port, i)} for i in ids]
    ends = [np.full(port.shape, port.lo), np.full(port.shape, port.hi)]
    middle = [rng.integers(port.lo, port.hi + 1, port.shape) for _ in range(SAMPLES - 2)]
    return [{port.name: q_x} for q_x in (*middle, *ends)]


def _outputs(program: Program, inputs: dict[str, IntArray]) -> dict[str, IntArray]:
    values = interpret(program, inputs)
    return {port.name: values[port.name] for port in program.outputs}


def _by_runtime(program: Program, inputs: Sequence[Any]) -> list[dict[str, IntArray]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_onnx(program).SerializeToString(), options)
    names = [port.name for port in program.outputs]
    return [dict(zip(names, session.run(names, q_x), strict=True)) for q_x in inputs]


def _equal(a: dict[str, IntArray], b: dict[str, IntArray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def _same(expected: Sequence[Any], found: Sequence[Any], what: str) -> None:
    for sample, (a, b) in enumerate(zip(expected, found, strict=True)):
        if not _equal(a, b):
            raise AssertionError(f"{what} differs at sample {sample}: {b}, the interpreter: {a}")


def results(simulate: int, encrypt: int, seed: int) -> Iterator[Result]:
    """As many as are asked for came to simulation or encryption; refused ones between them.

    Operators come in turn: of the encrypted ones, each is drawn until a small model has it.
    """
    names = list(NAMES)
    done = 0
    for i in count():
        if done >= simulate:
            break
        result = simulated(names[i % len(names)], seed + i).result
        done += result.outcome in ("exact", "fault")
        yield result
    batch: list[Simulated] = []
    for i in range(encrypt):
        for again in range(TRIES):
            model = simulated(names[i % len(names)], seed + i + 10_000 * again, tiny=True)
            if model.program is not None:
                batch.append(model)
                break
            if model.result.outcome != "large":
                yield model.result
        if len(batch) == TOGETHER or (batch and i == encrypt - 1):
            yield from encrypted(batch)
            batch = []


@dataclass
class Tally:
    """What came of many models."""

    results: list[Result]

    def of(self, outcome: str, *, tiny: bool) -> list[Result]:
        """Those of one kind."""
        return [r for r in self.results if r.outcome == outcome and r.tiny == tiny]

    def to_json(self) -> dict[str, Any]:
        """Counts, causes, and how often each operator was compared."""
        refused = [r.said for r in self.results if r.outcome == "refused"]
        simulated, encrypted = (
            [*self.of("exact", tiny=tiny), *self.of("fault", tiny=tiny)] for tiny in (False, True)
        )
        return {
            "simulated": len(simulated),
            "encrypted": len(encrypted),
            "exact": sum(r.outcome == "exact" for r in self.results),
            "refused": len(refused),
            "larger": len(self.of("large", tiny=False)),
            "ties": sum(r.ties for r in self.results),
            "causes": dict(Counter(refused).most_common()),
            "operators": {
                name: [sum(name in r.operators for r in rs) for rs in (simulated, encrypted)]
                for name in sorted(set().union(*(r.operators for r in self.results)))
            },
            "faults": [{"again": r.again, "said": r.said} for r in self.of_faults()],
        }

    def of_faults(self) -> list[Result]:
        """Those that have to be mended."""
        return [r for r in self.results if r.outcome == "fault"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run them; 1 where one is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.generated", description=__doc__)
    parser.add_argument("--simulate", type=int, default=500, metavar="N")
    parser.add_argument("--encrypt", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first model")
    parser.add_argument("--about", choices=NAMES, help="one model alone, of this operator")
    parser.add_argument("--encrypted", action="store_true", help="the one is a small one")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no more")
    args = parser.parse_args(argv)
    tally = Tally([])
    if args.about:
        model = simulated(args.about, args.seed, tiny=args.encrypted)
        encrypt = args.encrypted and model.program is not None
        tally.results += encrypted([model]) if encrypt else [model.result]
    else:
        with Progress("generated", total=args.simulate + args.encrypt) as progress:
            for result in results(args.simulate, args.encrypt, args.seed):
                tally.results.append(result)
                if result.outcome == "fault":
                    print(f"fault: {result.again}\n{result.said}", file=sys.stderr)
                if result.outcome in ("exact", "fault"):
                    progress.advance(result.about)
    found = tally.to_json()
    print(json.dumps(found, indent=2) if args.json else show(found))
    return 1 if found["faults"] else 0


def show(found: dict[str, Any]) -> str:
    """For people."""
    counts = [
        (k, found[k]) for k in ("simulated", "encrypted", "exact", "refused", "larger", "ties")
    ]
    operators = [(name, *counts) for name, counts in found["operators"].items()]
    return "\n\n".join((
        table(("", ""), counts),
        table(("refused because", "models"), list(found["causes"].items())),
        table(("operator", "simulated", "encrypted"), operators),
        f"{len(found['faults'])} faults",
    ))  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
