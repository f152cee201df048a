"""Float transformer in, quantized transformer with the same weights out; then its scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torusformer import InputError
from torusformer.models.transformer import Transformer
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.quantizers import ActQuant
from torusformer.quantize.transformer import QuantTransformer

CALIBRATION_SAMPLES = 512
TIE_MARGIN = 1e-3
SCALE = "log_scale"  # of an activation: not a weight, but calibrated


class Calibrated(Protocol):
    """A quantized model: called with samples, and the client's grid if it takes numbers."""

    @property
    def input_quant(self) -> ActQuant | None:
        """The grid of the inputs."""

    def __call__(self, x: Tensor) -> Tensor:
        """Logits."""

    def modules(self) -> Iterator[nn.Module]:
        """Every part."""

    def train(self, mode: bool = True) -> Any:
        """Into training mode."""

    training: bool


@torch.no_grad()
def to_qat(model: Transformer, config: QuantConfig) -> QuantTransformer:
    """Fold and quantize a trained float model; `calibrate` it next, then train on."""
    return QuantTransformer(model.config, config, model)


@torch.no_grad()
def narrowed(twin: QuantTransformer, config: QuantConfig) -> QuantTransformer:
    """A quantized model of other bit widths with the weights of `twin`; `calibrate` it next.

    Raises:
        InputError: `config` changes what is quantized, not only in how many bits.
    """
    new = QuantTransformer(twin.model_config, config)
    weights = {k: v for k, v in twin.state_dict().items() if not k.endswith(SCALE)}
    wanted = {k: v for k, v in new.state_dict().items() if not k.endswith(SCALE)}
    differ = weights.keys() ^ wanted.keys()
    differ |= {k for k in weights.keys() & wanted.keys() if weights[k].shape != wanted[k].shape}
    if differ:
        raise InputError(
            f"{min(differ)}: is another layer in these bit widths than in those before; change"
            " nothing but widths"
        )
    new.load_state_dict(weights, strict=False)
    return new


def best_scale(values: Tensor, lo: float, hi: float) -> float:
    """The scale with the least squared error when `values` are clipped to [lo, hi] units."""
    values = values.flatten()[:200_000]
    top = max(float(values.max()) / max(hi, 1), float(values.min()) / lo if lo < 0 else 0.0)
    if top <= 0:
        return 1.0
    best, best_error = top, float("inf")
    for fraction in np.geomspace(0.02, 1.0, 60):
        scale = top * float(fraction)
        error = float(
            ((torch.clamp(torch.round(values / scale), lo, hi) * scale - values) ** 2).mean()
        )
        if error < best_error:
            best, best_error = scale, error
    return best


@torch.no_grad()
def calibrate(twin: Calibrated, x: NDArray[np.generic] | Tensor) -> None:
    """Set every activation scale from samples x (N, tokens, features) or ids (N, T), first first.

    Quantizers on one grid (residual stream, scores and log-sums) pool what they see.
    """
    x = torch.as_tensor(x)[:CALIBRATION_SAMPLES]
    set_scales(twin, lambda: twin(x))
    if twin.input_quant is not None:
        scale = float(torch.exp2(twin.input_quant.log_scale))
        twin.input_quant.set_scale(_off_ties(scale, x))


@torch.no_grad()
def set_scales(model: Calibrated, run: Callable[[], object]) -> None:
    """Set the scale of every activation from what it sees while the model is `run`."""
    seen: dict[int, list[tuple[Tensor, float, float]]] = {}

    def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, ActQuant)
        samples = seen.setdefault(id(module.log_scale), [])
        samples.append((inputs[0].detach(), float(module.lo), float(module.hi)))
        module.set_scale(max(best_scale(*s) for s in samples[-8:]))

    handles = [
        m.register_forward_pre_hook(partial(observe))
        for m in model.modules()
        if isinstance(m, ActQuant) and not m.is_fixed
    ]
    was_training = model.training
    model.train()
    for _ in range(2):  # the second pass knows every user of a shared grid
        run()
    for handle in handles:
        handle.remove()
    model.train(was_training)


def _off_ties(scale: float, x: Tensor) -> float:
    """Widen `scale` a little until no sample lies halfway between two codes.

    The client rounds in double precision and training in single: a tie could go either way.
    """
    for _ in range(100):
        units = x / scale
        if float((units - torch.floor(units) - 0.5).abs().min()) > TIE_MARGIN:
            break
        scale *= 1 + 2 * TIE_MARGIN
    return scale
