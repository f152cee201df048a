"""The steps of a decoder in, what each of them costs out: before anything compiles."""

from __future__ import annotations

from typing import Any

from torusformer.fhe_compile.circuit.functions import Functions, plan_module
from torusformer.fhe_compile.decoding.decoder import DecoderProgram
from torusformer.fhe_compile.decoding.names import FEEDBACK, absorb_name, step_name
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.prices.failure import show_p_error
from torusformer.pipelines.console import size
from torusformer.tables import table


def plan_decoder(decoder: DecoderProgram, prices: PriceList) -> Functions:
    """Every function, with the parameters that all of them share."""
    return plan_module(decoder.functions, FEEDBACK, prices, prices.p_error)


def plan_to_json(planned: Functions) -> dict[str, Any]:
    """Of each position a step and what a token of a prompt costs there; keys are shared."""
    plans = planned.functions
    steps = [name for name in plans if name.startswith("step")]
    last = plans[steps[-1]]
    return {
        "steps": [
            {
                "position": position,
                "pbs": plans[name].pbs_total,
                "predicted_seconds": round(plans[name].predicted_seconds, 3),
                "pbs_by_layer": plans[name].pbs_by_layer,
                "max_bit_width": plans[name].max_bit_width,
            }
            for position, name in enumerate(map(step_name, range(len(steps))))
        ],
        "absorbs": [
            {
                "position": position,
                "pbs": plans[name].pbs_total,
                "predicted_seconds": round(plans[name].predicted_seconds, 3),
            }
            for position, name in enumerate(map(absorb_name, range(len(steps) - 1)))
        ],
        "p_error": last.p_error,
        "key_bytes": last.key_bytes,
        "peak_memory_bytes": last.peak_memory_bytes,
        "failure_probability_of_a_step": last.failure_probability,
    }


def plan_text(planned: Functions) -> str:
    """A row a position, and what all of them share."""
    data = plan_to_json(planned)
    absorbs = [*data["absorbs"], None]
    rows = [
        (
            step["position"],
            step["pbs"],
            f"{step['predicted_seconds']:.1f}",
            absorbed["pbs"] if absorbed else "",
            f"{absorbed['predicted_seconds']:.1f}" if absorbed else "",
        )
        for step, absorbed in zip(data["steps"], absorbs, strict=True)
    ]
    head = ("position", "PBS of a step", "seconds", "PBS of a prompt's token", "seconds")
    layers = data["steps"][-1]["pbs_by_layer"]
    parts = ", ".join(f"{layer} {count}" for layer, count in layers.items())
    return (
        f"{table(head, rows)}\n\n"
        f"the last step by layer: {parts}\n"
        f"evaluation keys {size(data['key_bytes'])}, peak memory "
        f"{size(data['peak_memory_bytes'])}, p_error {show_p_error(data['p_error'])}"
    )
