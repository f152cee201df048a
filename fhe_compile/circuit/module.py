"""Several integer programs in, one TFHE module out: functions that hand ciphertexts to each other.

All functions of a module share their keys, so that what one gives out another takes in without a
client in between. Which output goes to which input is told by name: an output and an input that
are called alike are two ends of a wire, and `feedback` names pairs that are called differently.

>>> module = compile_module({"first": first, "then": then})       # doctest: +SKIP
>>> module.run("first", {"x": q_x}, fhe="execute")["y"]           # doctest: +SKIP
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from concrete.fhe.compilation.module_compiler import FunctionDef, ModuleCompiler
from concrete.fhe.compilation.wiring import Input, Output, Wired
from concrete.fhe.compilation.wiring import Wire as ConcreteWire
from concrete.fhe.representation import Graph, GraphProcessor

from torusformer import InputError
from torusformer.fhe_compile.circuit.circuit import Mode
from torusformer.fhe_compile.circuit.concrete_options import (
    CompileError,
    concrete_configuration,
    explain,
    extremes,
    sent_key_bytes,
)
from torusformer.fhe_compile.circuit.joint import Wire, join
from torusformer.fhe_compile.circuit.trace import ProvedBitWidths, traced_function
from torusformer.fhe_compile.passes.refresh_wires import refresh_wires
from torusformer.fhe_compile.prices.cost import PriceList, load_prices
from torusformer.fhe_compile.prices.failure import EXACT, check_p_error
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import IntArray, Port, Program
from torusformer.fhe_compile.program.ports import check_ports
from torusformer.fhe_compile.tfhe.encode import encode
from torusformer.fhe_compile.tfhe.estimate import Estimate
from torusformer.fhe_compile.tfhe.expand import Expanded, expand
from torusformer.fhe_compile.tfhe.plan import Plan, plan_encoded
from torusformer.fhe_compile.tfhe.steps import Encoding

# Narrow tables laid out as wide as logits run a quarter slower than the plan says, measured on
# decoders: Concrete gives them parameters beyond the two sets of the price list.
WIDE_LAYOUT_PENALTY = 1.1


@dataclass(frozen=True, eq=False)
class Function:
    """One function of a module, as it is traced, and what a run of it costs."""

    program: Program
    expanded: Expanded
    encoding: Encoding
    plan: Plan


@dataclass(frozen=True, eq=False)
class Functions:
    """All functions of a module, planned together, and the wires between them."""

    functions: Mapping[str, Function]
    wires: tuple[Wire, ...]


class Module:
    """Compiled functions. Made by `compile_module`; keys are made at the first encrypted run."""

    def __init__(self, planned: Functions, inner: Any) -> None:
        self.functions, self.wires, self.inner = planned.functions, planned.wires, inner

    def keygen(self, force: bool = False) -> None:
        """Make the secret and evaluation keys; once, unless `force`."""
        self.inner.keygen(force=force)

    def run(
        self, name: str, inputs: Mapping[str, np.ndarray], fhe: Mode = "execute"
    ) -> dict[str, IntArray]:
        """One function by itself: program integers in and out, as `Circuit.run`."""
        function = self.function(name)
        checked = check_ports(function.program.inputs, inputs)
        if fhe == "disable":
            values = interpret(function.program, checked)
            return {port.name: values[port.name] for port in function.program.outputs}
        reps = [p.encode(checked[p.port.name]) for p in function.encoding.inputs]
        inner = getattr(self.inner, name)
        if fhe == "simulate":
            return self.decode(name, inner.simulate(*reps))
        if fhe == "execute":
            return self.decode(name, inner.encrypt_run_decrypt(*reps))
        raise InputError(f"fhe is {fhe!r}; it is 'disable', 'simulate' or 'execute'")

    def encrypt(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Ciphertexts of some inputs of a function, by name."""
        function = self.function(name)
        ports = [p for p in function.encoding.inputs if p.port.name in inputs]
        checked = check_ports([p.port for p in ports], inputs)
        reps = [
            p.encode(checked[p.port.name]) if p.port.name in inputs else None
            for p in function.encoding.inputs
        ]
        values = getattr(self.inner, name).encrypt(*reps)
        values = values if isinstance(values, tuple) else (values,)
        names = [p.port.name for p in function.encoding.inputs]
        return {n: v for n, v in zip(names, values, strict=True) if v is not None}

    def run_encrypted(self, name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Ciphertexts in and out, by name."""
        function = self.function(name)
        arguments = [inputs[p.port.name] for p in function.encoding.inputs]
        results = getattr(self.inner, name).run(*arguments)
        results = results if isinstance(results, tuple) else (results,)
        names = [p.port.name for p in function.encoding.outputs]
        return dict(zip(names, results, strict=False))

    def decrypt(self, name: str, outputs: Mapping[str, Any]) -> dict[str, IntArray]:
        """Program integers of all outputs of a function."""
        ports = self.function(name).encoding.outputs
        values = [outputs[p.port.name] for p in ports]
        return self.decode(name, getattr(self.inner, name).decrypt(*values))

    def decode(self, name: str, results: Any) -> dict[str, IntArray]:
        """What a function gives to program integers by output name."""
        results = results if isinstance(results, tuple) else (results,)
        ports = self.function(name).encoding.outputs
        return {p.port.name: p.decode(np.asarray(r)) for p, r in zip(ports, results, strict=False)}

    def function(self, name: str) -> Function:
        """By name; an InputError if there is none."""
        if name not in self.functions:
            raise InputError(f"there is no function {name!r}, only {', '.join(self.functions)}")
        return self.functions[name]

    @property
    def complexity(self) -> float:
        """Concrete's estimate of the work of one run of every function, in its own unit."""
        return float(self.inner.complexity)

    @property
    def key_bytes(self) -> int:
        """Bytes of the evaluation keys as they are sent: compressed, seeds for what is random."""
        return sent_key_bytes(self.inner.server)


def plan_module(
    programs: Mapping[str, Program],
    feedback: Mapping[str, str] | None = None,
    prices: PriceList | None = None,
    p_error: float = EXACT,
) -> Functions:
    """Every function with its plan, priced with the parameters that all of them share."""
    prices = prices or load_prices(p_error=check_p_error(p_error))
    feedback = feedback or {}
    ends = _ends(programs, feedback)
    # All or none: what pays in one function alone does not where others decide its parameters.
    plain, fresh = (
        _encoded(programs, feedback, ends, prices, refresh=how) for how in (False, True)
    )
    fresher = fresh.estimate.total_ms() < WIDE_LAYOUT_PENALTY * plain.estimate.total_ms()
    expanded, encodings, wires, module = fresh if fresher else plain
    return Functions(
        {
            name: Function(
                program,
                expanded[name],
                encodings[name],
                plan_encoded(expanded[name], encodings[name], prices, p_error, module),
            )
            for name, program in programs.items()
        },
        wires,
    )


class _Joined(NamedTuple):
    """One way to do all functions of a module, and what it costs."""

    expanded: Mapping[str, Expanded]
    encodings: Mapping[str, Encoding]
    wires: tuple[Wire, ...]
    estimate: Estimate


def _encoded(
    programs: Mapping[str, Program],
    feedback: Mapping[str, str],
    ends: Mapping[str, Mapping[str, Port]],
    prices: PriceList,
    *,
    refresh: bool,
) -> _Joined:
    """Every function expanded and encoded, the wires, and what all of them cost together.

    With `refresh`, what is read precisely is looked up once more in every function.
    """
    without, always = ((), ("refresh_outputs",)) if refresh else (("refresh_outputs",), ())
    expanded = {
        name: refresh_wires(
            expand(program, prices, without, always=always), ends[name], choices=refresh
        )
        for name, program in programs.items()
    }
    encodings = {
        name: encode(found.program, found.known, ends[name]) for name, found in expanded.items()
    }
    wires = _wires(encodings, feedback)
    whole, encodings = join(encodings, wires)
    return _Joined(expanded, encodings, wires, Estimate(whole, prices))


def compile_module(
    programs: Mapping[str, Program],
    feedback: Mapping[str, str] | None = None,
    p_error: float = EXACT,
    simulate: bool = False,
    progress: Callable[[str], None] | None = None,
    prices: PriceList | None = None,
) -> Module:
    """Compile functions to one module, at 128 bits of security; arguments as `compile_program`.

    `feedback` maps names of outputs to names of inputs that they go to.
    """
    report = progress or (lambda _: None)
    report("planning")
    planned = plan_module(programs, feedback, prices, p_error)
    definitions = {}
    for name, function in planned.functions.items():
        traced = traced_function(function.encoding)
        traced.__name__ = name
        names = inspect.signature(traced).parameters
        definitions[name] = FunctionDef(traced, dict.fromkeys(names, "encrypted"))
    composition = Wired(
        {
            ConcreteWire(
                Output(definitions[w.source], w.output), Input(definitions[w.target], w.input)
            )
            for w in planned.wires
        }
    )
    labels = _Labels({name: f.encoding for name, f in planned.functions.items()})
    rows = [row for f in planned.functions.values() for row in f.plan.rows]
    report(f"compiling {sum(row.pbs for row in rows):,} bootstraps in {len(programs)} functions")
    inputsets: Any = {name: extremes(f.encoding) for name, f in planned.functions.items()}
    try:
        compiler = ModuleCompiler(list(definitions.values()), composition)
        configuration = concrete_configuration(p_error, labels, simulate)
        inner = compiler.compile(inputsets, configuration)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CompileError(explain(error, rows, p_error)) from error
    labels.restore()
    if not simulate:
        _check_keys(inner.server, planned.wires)
    return Module(planned, inner)


class _Labels(GraphProcessor):
    """`ProvedBitWidths` of every function, by the name of its graph."""

    def __init__(self, encodings: Mapping[str, Encoding]) -> None:
        self.each = {name: ProvedBitWidths(encoding) for name, encoding in encodings.items()}

    def apply(self, graph: Graph) -> None:
        """Relabel one function in place."""
        self.each[graph.name].apply(graph)

    def restore(self) -> None:
        """Undo the reduction of constants."""
        for labels in self.each.values():
            labels.restore()


def _ends(
    programs: Mapping[str, Program], feedback: Mapping[str, str]
) -> dict[str, dict[str, Port]]:
    """By function, the names of its ports on wires, each with bounds that hold at every end."""
    taken: dict[str, list[Port]] = {}
    given: dict[str, list[Port]] = {}
    for program in programs.values():
        for port in program.inputs:
            taken.setdefault(port.name, []).append(port)
        for port in program.outputs:
            given.setdefault(feedback.get(port.name, port.name), []).append(port)
    wide: dict[str, Port] = {}
    for name in taken.keys() & given.keys():
        ports = [*taken[name], *given[name]]
        if shapes := {port.shape for port in ports} - {ports[0].shape}:
            raise InputError(
                f"{name!r} is given out as {given[name][0].shape} and taken in as "
                f"{ports[0].shape} or {min(shapes)}; a wire keeps its shape"
            )
        wide[name] = replace(
            ports[0], lo=min(port.lo for port in ports), hi=max(port.hi for port in ports)
        )
    return {
        function: {
            port.name: wide[wire]
            for port, wire in [
                *((port, port.name) for port in program.inputs),
                *((port, feedback.get(port.name, port.name)) for port in program.outputs),
            ]
            if wire in wide
        }
        for function, program in programs.items()
    }


def _wires(encodings: Mapping[str, Encoding], feedback: Mapping[str, str]) -> tuple[Wire, ...]:
    """Every pair of an output and an input of one name."""
    inputs: dict[str, list[tuple[str, int]]] = {}
    for function, encoding in encodings.items():
        for i, port in enumerate(encoding.inputs):
            inputs.setdefault(port.port.name, []).append((function, i))
    return tuple(
        Wire(function, i, target, position)
        for function, encoding in encodings.items()
        for i, port in enumerate(encoding.outputs)
        for target, position in inputs.get(feedback.get(port.port.name, port.port.name), [])
    )


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
