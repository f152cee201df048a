"""Small random checkpoints as `transformers` writes them, and without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 4, "n_layer": 1,
    "n_head": 2, "n_positions": 6, "vocab_size": 5,
}  # fmt: skip


def gpt2_weights(seed: int = 0) -> dict[str, Tensor]:
    """What CONFIG asks for."""
    shapes = {
        "wte.weight": (5, 4), "wpe.weight": (6, 4), "ln_f.weight": (4,), "ln_f.bias": (4,),
        "h.0.ln_1.weight": (4,), "h.0.ln_1.bias": (4,), "h.0.ln_2.weight": (4,),
        "h.0.ln_2.bias": (4,), "h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_attn.bias": (12,),
        "h.0.attn.c_proj.weight": (4, 4), "h.0.attn.c_proj.bias": (4,),
        "h.0.mlp.c_fc.weight": (4, 16), "h.0.mlp.c_fc.bias": (16,),
        "h.0.mlp.c_proj.weight": (16, 4), "h.0.mlp.c_proj.bias": (4,),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_checkpoint(
    folder: Path, weights: dict[str, Tensor] | None = None, **changes: Any
) -> Path:
    """A folder of CONFIG with changes (None leaves a field out) and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in {**CONFIG, **changes}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(gpt2_weights() if weights is None else weights, folder / "model.safetensors")
    return folder


def shaken(model: Any) -> Any:
    """With weights that differ from each other, biases and gains too."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()
