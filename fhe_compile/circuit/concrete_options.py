"""How Concrete is asked to compile, and what it answers: options, refusals, sizes of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from concrete.fhe.representation import GraphProcessor

from torusformer import TorusformerError
from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.fhe_compile.prices.cost import KeySizes
from torusformer.fhe_compile.prices.failure import show_p_error
from torusformer.fhe_compile.program.nodes import IntArray, Port
from torusformer.fhe_compile.tfhe.encoding import Encoding
from torusformer.fhe_compile.tfhe.plan_rows import PlanRow


class CompileError(TorusformerError):
    """Concrete found no parameters, or refused the circuit."""


def concrete_configuration(
    p_error: float, labels: GraphProcessor, simulate: bool, keys: Any = None
) -> Any:
    """128 bits of security, multi-parameter, no sampling: `labels` gives out proved bit widths.

    `keys` is a restriction to keys of another circuit.
    """
    return fhe.Configuration(
        p_error=p_error,
        compress_evaluation_keys=True,  # a sixth of the bytes; the server expands them once
        compress_input_ciphertexts=True,  # a request is a seed and a body for each number
        additional_pre_processors=[labels],
        fhe_simulation=simulate,
        fhe_execution=not simulate,
        loop_parallelize=True,
        enable_unsafe_features=False,
        range_restriction=_fast_polynomials(),
        keyset_restriction=keys,
        enable_tlu_fusing=False,  # done, and counted, before
        approximate_rounding_config=fhe.ApproximateRoundingConfig(
            logical_clipping=False,  # what is dropped are zeros: no table beside it
            approximate_clipping_start_precision=False,
            reduce_precision_after_approximate_clipping=False,
            symetrize_deltas=False,
        ),
        optimize_tlu_based_on_original_bit_width=True,
        dump_artifacts_on_unexpected_failures=False,
    )


def extremes(encoding: Encoding) -> list[tuple[IntArray, ...]]:
    """The inputset: the lowest and the highest that every input can be."""
    return [
        tuple(p.encode(_extreme(p.port, highest)) for p in encoding.inputs)
        for highest in (False, True)
    ]


def _extreme(port: Port, highest: bool) -> IntArray:
    if port.one_hot:
        bits = np.zeros(port.shape, np.int64)
        bits[..., -1 if highest else 0] = 1
        return bits
    return port.bounds[highest]


def _fast_polynomials() -> fhe.compilation.configuration.RangeRestriction:
    """Polynomials of 1024 coefficients and more.

    Concrete's cost model takes the small ones for cheaper than they run: an exact rounding is up to
    a fifth faster without them. Security is the same 128 bits.
    """
    restriction = fhe.compilation.configuration.RangeRestriction()
    for log in range(10, 17):
        restriction.add_available_glwe_log_polynomial_size(log)
    return restriction


def explain(error: Exception, rows: Sequence[PlanRow], p_error: float) -> str:
    """Concrete's refusal in words that name the widest table and what to turn."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    widest = max(rows, key=lambda row: row.bits, default=None)
    where = f"; the widest {widest.op} is {widest.tag} with {widest.bits} bits" if widest else ""
    if "NoParametersFound" in str(error):
        return (
            f"Concrete finds no 128-bit secure parameters for p_error {show_p_error(p_error)}"
            f"{where}: lower accumulator_bit_width, round sooner, or allow a larger p_error"
        )
    return f"Concrete refused the circuit: {reason}{where}"


def sent_key_bytes(server: Any) -> int:
    """Bytes of a server's evaluation keys as they are sent: seeds for what is random."""
    keyset = server.program_info.get_keyset_info()
    dimension = {i: key.dimension() for i, key in enumerate(keyset.secret_keys())}
    bootstrap = sum(
        KeySizes(
            key.input_lwe_dimension(), key.glwe_dimension(), key.polynomial_size(), key.level()
        ).sent_bytes
        for key in keyset.bootstrap_keys()
    )
    keyswitch = sum(
        dimension[key.input_secret_key_id()] * key.level() * 8 for key in keyset.keyswitch_keys()
    )
    return int(bootstrap + keyswitch)
