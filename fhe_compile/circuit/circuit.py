"""Integer program in, TFHE circuit out: compiled from proved ranges, run clear or encrypted.

>>> circuit = compile_program(program)            # doctest: +SKIP
>>> circuit.run({"x": q_x}, fhe="execute")["y"]   # doctest: +SKIP
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from torusformer import InputError
from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.fhe_compile.circuit.concrete_options import (
    CompileError,
    concrete_configuration,
    explain,
    extremes,
    sent_key_bytes,
)
from torusformer.fhe_compile.circuit.trace import ProvedBitWidths, traced_function
from torusformer.fhe_compile.deployment.deployment import save_deployment
from torusformer.fhe_compile.prices.cost import PriceList, load_prices
from torusformer.fhe_compile.prices.failure import EXACT, check_p_error
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import IntArray, Program
from torusformer.fhe_compile.program.ports import check_ports
from torusformer.fhe_compile.tfhe.encode import encode
from torusformer.fhe_compile.tfhe.expand import Expanded, expand
from torusformer.fhe_compile.tfhe.plan import Plan, plan_encoded
from torusformer.fhe_compile.tfhe.steps import Encoding

Mode = Literal["disable", "simulate", "execute"]


class Circuit:
    """A compiled program. Made by `compile_program`; keys are made at the first encrypted run."""

    def __init__(
        self, program: Program, expanded: Expanded, encoding: Encoding, plan: Plan, inner: Any
    ) -> None:
        self.program = program
        self.expanded = expanded
        self.encoding = encoding
        self.plan = plan
        self.inner = inner

    def keygen(self, force: bool = False) -> None:
        """Make the secret and evaluation keys; once, unless `force`."""
        self.inner.keygen(force=force)

    def run(
        self, inputs: Mapping[str, np.ndarray] | np.ndarray, fhe: Mode = "execute"
    ) -> dict[str, IntArray]:
        """Program integers in and out, by output name.

        "disable" interprets the program, "simulate" runs the circuit without encryption but with
        its noise, "execute" encrypts, runs and decrypts.
        """
        checked = check_ports(self.program.inputs, inputs)
        if fhe == "disable":
            values = interpret(self.program, checked)
            return {port.name: values[port.name] for port in self.program.outputs}
        reps = [port.encode(checked[port.port.name]) for port in self.encoding.inputs]
        if fhe == "simulate":
            results = self.inner.simulate(*reps)
        elif fhe == "execute":
            results = self.inner.encrypt_run_decrypt(*reps)
        else:
            raise InputError(f"fhe is {fhe!r}; it is 'disable', 'simulate' or 'execute'")
        return self.decode(results)

    def graph(self, inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, IntArray]:
        """As `run`, on Concrete's computation graph in the clear."""
        checked = check_ports(self.program.inputs, inputs)
        reps = [port.encode(checked[port.port.name]) for port in self.encoding.inputs]
        return self.decode(self.inner.graph(*reps))

    def save(self, folder: Path) -> None:
        """Write `client.zip`, `server.zip`, `interface.json` and `versions.json` into `folder`."""
        save_deployment(self, folder)

    def decode(self, results: Any) -> dict[str, IntArray]:
        """What the circuit gives to program integers by output name."""
        results = results if isinstance(results, tuple) else (results,)
        ports = self.encoding.outputs  # behind them, perhaps, inputs that nothing reads
        return {p.port.name: p.decode(np.asarray(r)) for p, r in zip(ports, results, strict=False)}

    @property
    def statistics(self) -> dict[str, Any]:
        """Concrete's counts: bootstraps, keyswitches and additions, by tag and by parameter."""
        return dict(self.inner.statistics)

    @property
    def complexity(self) -> float:
        """Concrete's estimate of the work of one run, in its own unit."""
        return float(self.inner.complexity)

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
    check_p_error(p_error)
    report = progress or (lambda _: None)
    report("planning")
    prices = prices or load_prices(p_error=p_error)
    expanded = expand(program, prices)
    encoding = encode(expanded.program, expanded.known)
    plan = plan_encoded(expanded, encoding, prices, p_error)
    function = traced_function(encoding)
    labels = ProvedBitWidths(encoding)
    configuration = concrete_configuration(p_error, labels, simulate)
    report(f"compiling {plan.pbs_total:,} bootstraps")
    names = inspect.signature(function).parameters
    try:
        compiler = fhe.Compiler(function, dict.fromkeys(names, "encrypted"))
        inner = compiler.compile(extremes(encoding), configuration)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CompileError(explain(error, plan.rows, p_error)) from error
    labels.restore()
    return Circuit(program, expanded, encoding, plan, inner)
