"""Integer programs in, a TFHE module out: compiled from proved ranges, run clear or encrypted.

All functions of a module share their keys, so that what one gives out another takes in without a
client in between (`wires.py` says which goes where). A circuit is the function of a module of one.

>>> circuit = compile_program(program)                            # doctest: +SKIP
>>> circuit.run({"x": q_x}, fhe="execute")["y"]                   # doctest: +SKIP
>>> module = compile_module({"first": first, "then": then})       # doctest: +SKIP
>>> module.run("first", {"x": q_x}, fhe="execute")["y"]           # doctest: +SKIP
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from torusformer import InputError
from torusformer.fhe_compile.circuit import backend
from torusformer.fhe_compile.circuit.concrete_options import (
    CompileError,
    concrete_configuration,
    explain,
    extremes,
    sent_key_bytes,
)
from torusformer.fhe_compile.circuit.functions import (
    Functions,
    plan_module,
)
from torusformer.fhe_compile.circuit.trace import ProvedBitWidths, traced_function
from torusformer.fhe_compile.circuit.wires import Wire
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.prices.failure import EXACT, check_p_error
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import IntArray, Program
from torusformer.fhe_compile.program.ports import check_ports
from torusformer.fhe_compile.tfhe.plan import Plan, plan

Mode = Literal["disable", "simulate", "execute"]
Inputs = Mapping[str, np.ndarray] | np.ndarray
ONLY = "main"  # what the function of a program by itself is called


class Circuit:
    """One compiled function. Keys are made at the first encrypted run.

    `inner` is Concrete's module, which may have other functions under the same keys.
    """

    def __init__(self, name: str, plan: Plan, inner: Any) -> None:
        self.program, self.encoding, self.plan = plan.program, plan.encoding, plan
        self.inner, self._function = inner, getattr(inner, name)

    def keygen(self, force: bool = False) -> None:
        """Make the secret and evaluation keys; once, unless `force`."""
        self.inner.keygen(force=force)

    def run(self, inputs: Inputs, fhe: Mode = "execute") -> dict[str, IntArray]:
        """Program integers in and out, by output name.

        "disable" interprets the program, "simulate" runs the circuit without encryption but with
        its noise, "execute" encrypts, runs and decrypts.
        """
        if fhe == "disable":
            values = interpret(self.program, check_ports(self.program.inputs, inputs))
            return {port.name: values[port.name] for port in self.program.outputs}
        if fhe == "simulate":
            return self._decoded(self._function.simulate(*self._encoded(inputs)))
        if fhe == "execute":
            return self._decoded(self._function.encrypt_run_decrypt(*self._encoded(inputs)))
        raise InputError(f"fhe is {fhe!r}; it is 'disable', 'simulate' or 'execute'")

    def graph(self, inputs: Inputs) -> dict[str, IntArray]:
        """As `run`, on Concrete's computation graph in the clear."""
        return self._decoded(self._function.graph(*self._encoded(inputs)))

    def encrypt(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Ciphertexts of some inputs, by name."""
        ports = self.encoding.inputs
        given = check_ports([p.port for p in ports if p.port.name in inputs], inputs)
        reps = [p.encode(given[p.port.name]) if p.port.name in given else None for p in ports]
        values = self._function.encrypt(*reps)
        values = values if isinstance(values, tuple) else (values,)
        named = zip(ports, values, strict=True)
        return {p.port.name: value for p, value in named if value is not None}

    def run_encrypted(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Ciphertexts in and out, by name."""
        results = self._function.run(*(inputs[p.port.name] for p in self.encoding.inputs))
        results = results if isinstance(results, tuple) else (results,)
        named = zip(self.encoding.outputs, results, strict=False)
        return {p.port.name: result for p, result in named}

    def decrypt(self, outputs: Mapping[str, Any]) -> dict[str, IntArray]:
        """Program integers of all outputs."""
        values = (outputs[p.port.name] for p in self.encoding.outputs)
        return self._decoded(self._function.decrypt(*values))

    def _encoded(self, inputs: Inputs) -> list[IntArray]:
        checked = check_ports(self.program.inputs, inputs)
        return [port.encode(checked[port.port.name]) for port in self.encoding.inputs]

    def _decoded(self, results: Any) -> dict[str, IntArray]:
        results = results if isinstance(results, tuple) else (results,)
        ports = self.encoding.outputs  # behind them, perhaps, inputs that nothing reads
        return {p.port.name: p.decode(np.asarray(r)) for p, r in zip(ports, results, strict=False)}

    @property
    def statistics(self) -> dict[str, Any]:
        """Concrete's counts: bootstraps, keyswitches and additions, by tag and by parameter."""
        return dict(self._function.statistics)

    @property
    def complexity(self) -> float:
        """Concrete's estimate of the work of one run of every function, in its own unit."""
        return float(self.inner.complexity)

    @property
    def key_bytes(self) -> int:
        """Bytes of the evaluation keys as they are sent: compressed, seeds for what is random."""
        return sent_key_bytes(self.inner.server)


class Module:
    """Compiled functions that share their keys, by name, and the wires between them."""

    def __init__(self, planned: Functions, inner: Any) -> None:
        self.functions: Mapping[str, Circuit] = {
            name: Circuit(name, function, inner) for name, function in planned.functions.items()
        }
        self.wires, self.inner = planned.wires, inner

    def keygen(self, force: bool = False) -> None:
        """Make the secret and evaluation keys; once, unless `force`."""
        self.inner.keygen(force=force)

    def run(self, name: str, inputs: Inputs, fhe: Mode = "execute") -> dict[str, IntArray]:
        """One function by itself: program integers in and out, as `Circuit.run`."""
        return self.function(name).run(inputs, fhe)

    def function(self, name: str) -> Circuit:
        """By name; an InputError if there is none."""
        if name not in self.functions:
            raise InputError(f"there is no function {name!r}, only {', '.join(self.functions)}")
        return self.functions[name]

    @property
    def key_bytes(self) -> int:
        """Bytes of the evaluation keys as they are sent: compressed, seeds for what is random."""
        return sent_key_bytes(self.inner.server)


def compile_program(
    program: Program,
    p_error: float = EXACT,
    simulate: bool = False,
    progress: Callable[[str], None] | None = None,
    prices: PriceList | None = None,
) -> Circuit:
    """Compile from proved ranges, at 128 bits of security.

    `p_error` is the chance that one bootstrap is wrong; the default is as good as never. With
    `simulate`, nothing that runs on ciphertexts is built until the first encrypted run.
    `progress` is told each stage. `prices`, by default those at `p_error`, decide how products are
    done.
    """
    report = progress or (lambda _: None)
    report("planning")
    return compile_plan(plan(program, prices, check_p_error(p_error)), simulate, report)


def compile_plan(
    plan: Plan,
    simulate: bool = False,
    progress: Callable[[str], None] | None = None,
    keys: Any = None,
) -> Circuit:
    """Compile what was planned before; arguments as `compile_functions`."""
    planned = Functions({ONLY: plan}, ())
    return compile_functions(planned, simulate, progress, keys).functions[ONLY]


def compile_module(
    programs: Mapping[str, Program],
    feedback: Mapping[str, str] | None = None,
    p_error: float = EXACT,
    simulate: bool = False,
    progress: Callable[[str], None] | None = None,
    prices: PriceList | None = None,
    keys: Any = None,
) -> Module:
    """Compile functions to one module; arguments as `compile_functions` and `plan_module`."""
    report = progress or (lambda _: None)
    report("planning")
    return compile_functions(
        plan_module(programs, feedback, prices, p_error), simulate, report, keys
    )


def compile_functions(
    planned: Functions,
    simulate: bool = False,
    progress: Callable[[str], None] | None = None,
    keys: Any = None,
) -> Module:
    """Compile functions that were planned together; arguments as `compile_program`.

    `keys` restricts Concrete to the parameters of keys that exist (`deployment.shared_keys`).
    """
    report, functions = progress or (lambda _: None), planned.functions
    p_error = next(iter(functions.values())).p_error
    definitions = {name: _definition(name, function) for name, function in functions.items()}
    composition = backend.Wired(
        {
            backend.Wire(
                backend.Output(definitions[w.source], w.output),
                backend.Input(definitions[w.target], w.input),
            )
            for w in planned.wires
        }
    )
    labels = ProvedBitWidths({name: f.encoding for name, f in functions.items()})
    rows = [row for f in functions.values() for row in f.rows]
    among = f" in {len(functions)} functions" if len(functions) > 1 else ""
    report(f"compiling {sum(row.pbs for row in rows):,} bootstraps{among}")
    inputsets: Any = {name: extremes(f.encoding) for name, f in functions.items()}
    try:
        compiler = backend.ModuleCompiler(list(definitions.values()), composition)
        inner = compiler.compile(inputsets, concrete_configuration(p_error, labels, simulate, keys))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CompileError(explain(error, rows, p_error)) from error
    labels.restore()
    if not simulate:
        _check_keys(inner.server, planned.wires)
    return Module(planned, inner)


def _definition(name: str, function: Plan) -> backend.FunctionDef:
    traced = traced_function(function.encoding)
    traced.__name__ = name
    names = inspect.signature(traced).parameters
    return backend.FunctionDef(traced, dict.fromkeys(names, "encrypted"))


def _check_keys(server: Any, wires: Sequence[Wire]) -> None:
    """Both ends of a wire are under one key. Concrete does not promise it, and would fail late."""
    described = json.loads(server.program_info.serialize())
    circuits = {circuit["name"]: circuit for circuit in described["circuits"]}
    for wire in wires:
        output = circuits[wire.source]["outputs"][wire.output]
        taken = circuits[wire.target]["inputs"][wire.input]
        if _key(output) != _key(taken):
            raise CompileError(
                f"Concrete gave the output {wire.output} of {wire.source} another key than the "
                f"input {wire.input} of {wire.target} that it goes to; compile at another p_error"
            )


def _key(gate: Mapping[str, Any]) -> Any:
    return gate["typeInfo"]["lweCiphertext"]["encryption"]["keyId"]
