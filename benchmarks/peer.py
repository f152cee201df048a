"""A torch model and a setting of Concrete ML in; its circuit, or why there is none, out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.models import Task

SAMPLES = 300  # of the training half, from which Concrete ML learns ranges
MESSAGE = 300  # characters of an error that are kept


@dataclass(frozen=True)
class Setting:
    """`compile_brevitas_qat_model`'s choices: rounding of accumulators, bits of what Brevitas
    does not fix (a residual sum); None is Concrete ML's default."""

    name: str
    round_to: int | None = None
    approximate: bool = False
    n_bits: int | None = None

    @property
    def rounding(self) -> dict[str, Any] | None:
        """The argument `rounding_threshold_bits`."""
        if self.round_to is None:
            return None
        method = fhe.Exactness.APPROXIMATE if self.approximate else fhe.Exactness.EXACT
        return {"n_bits": self.round_to, "method": method}


def settings() -> list[Setting]:
    """Its default, 6 bits exact, 6 to 3 approximate; residual sums of 8 to 4."""
    found = [Setting("default")]
    for n_bits in (None, 6, 5, 4):
        residual = "" if n_bits is None else f", residual sums of {n_bits}"
        if n_bits is not None:
            found.append(Setting(f"default{residual}", n_bits=n_bits))
        found.append(Setting(f"6 bits exact{residual}", 6, n_bits=n_bits))
        for bits in (6, 5, 4, 3):
            found.append(Setting(f"{bits} bits approximate{residual}", bits, True, n_bits))
    return found


def fast_settings() -> list[Setting]:
    """The approximate ones with narrow residual sums: none of the others is cheaper."""
    return [s for s in settings() if s.approximate and s.n_bits is not None and s.n_bits <= 5]


def quick_settings() -> list[Setting]:
    """One that may well be refused and the cheapest."""
    return [settings()[0], settings()[-1]]


def compile_peer(model: nn.Module, task: Task, setting: Setting, p_error: float) -> Any:
    """A `QuantizedModule` with its circuit."""
    from concrete.ml.torch.compile import compile_brevitas_qat_model

    return compile_brevitas_qat_model(
        model,
        task.x_train[:SAMPLES],
        n_bits=setting.n_bits,
        rounding_threshold_bits=setting.rounding,
        configuration=fhe.Configuration(dump_artifacts_on_unexpected_failures=False),
        p_error=p_error,
    )


def assess(model: nn.Module, task: Task, setting: Setting, p_error: float) -> dict[str, Any]:
    """Complexity, bootstraps, and accuracy of its clear module; or the message of the refusal.

    Concrete ML's simulation takes most of a second an image; the clear module, which lacks the
    errors of approximate rounding, judges in its favour.
    """
    try:
        module = compile_peer(model, task, setting, p_error)
    except Exception as error:  # whatever Concrete ML raises is what we want to report
        return {"setting": setting.name, "error": message(error)}
    circuit = module.fhe_circuit
    logits = module.forward(task.x_test, fhe="disable")
    return {
        "setting": setting.name,
        "complexity": float(circuit.complexity),
        "pbs": int(circuit.programmable_bootstrap_count),
        "accuracy": float((logits.argmax(1) == task.y_test).mean()),
    }


def message(error: Exception) -> str:
    """Kind and first words of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MESSAGE]


class PeerRuns:
    """A module that is given keys when it is first run; runs as `Encrypted` times its own."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._warm = False

    def run(self, x: NDArray[np.float32]) -> dict[str, Any]:
        """Seconds to encrypt, run and decrypt, and how that compares with its own clear result.

        As with ours, the first run of a process is not the one that is timed.
        """
        if not self._warm:
            self.module.fhe_circuit.keygen()
            self.module.forward(x, fhe="execute")
            self._warm = True
        expected = self.module.forward(x, fhe="disable")
        start = time.monotonic()
        found = self.module.forward(x, fhe="execute")
        seconds = time.monotonic() - start
        return {
            "seconds": round(seconds, 3),
            "bit_exact": bool(np.array_equal(found, expected)),
            "largest_difference": float(np.abs(found - expected).max()),
            "same_class": bool((found.argmax(1) == expected.argmax(1)).all()),
        }
