"""ViT in, our configuration out: patches as features, the class token as one whose features are 0.

arXiv 2010.11929.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torusformer import ArtifactError, InputError
from torusformer.models.config import ModelConfig
from torusformer.models.foreign.fields import Fields
from torusformer.models.foreign.reading import ACTIVATION_NAMES, Family, Reading

BRIGHTEST = 255.0
PREPARATION = "preprocessor_config.json"


def read_vit(reading: Reading) -> ModelConfig:
    """ViT; a pooler behind a model without a head is left out."""
    fields, weights, state = reading.fields, reading.weights, reading.state
    dim, layers, heads, wide, side, patch = (
        fields.count(name)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                     "intermediate_size", "image_size", "patch_size")
    )  # fmt: skip
    channels, biased = fields.count("num_channels", 3), fields.flag("qkv_bias", True)
    if side % patch:
        raise ArtifactError(
            f"{fields.path}: image_size {side} is no multiple of patch_size {patch}; rows of pixels"
            " would be lost"
        )
    tokens, features = (side // patch) ** 2 + 1, channels * patch * patch
    if reading.wishes.tokens not in (None, tokens):
        raise ArtifactError(f"{fields.path}: its images are {tokens} tokens; leave out --tokens")
    kernel = weights.take("embeddings.patch_embeddings.projection.weight", dim, channels, patch,
                          patch)  # fmt: skip
    bias = weights.take("embeddings.patch_embeddings.projection.bias", dim)
    if reading.wishes.raw_pixels:
        kernel, bias = _of_raw_pixels(reading, kernel, bias)
    state["embed.weight"], state["embed.bias"] = kernel.reshape(dim, features), bias
    positions = weights.take("embeddings.position_embeddings", 1, tokens, dim)[0].clone()
    positions[0] += weights.take("embeddings.cls_token", 1, 1, dim)[0, 0] - bias
    state["positions"] = positions
    reading.folded += [
        f"patches: the convolution is a map of {features} features, channel by channel",
        "class token: token 0, whose features are zero; its vector is in its position",
    ]
    for i in range(layers):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            name = f"{theirs}.attention.attention.{part}"
            reading.linear(f"{ours}.attention.{part}", name, dim, dim, bias=biased)
        reading.linear(f"{ours}.attention.out", f"{theirs}.attention.output.dense", dim, dim)
        reading.norm(f"{ours}.norm1", f"{theirs}.layernorm_before", dim)
        reading.norm(f"{ours}.norm2", f"{theirs}.layernorm_after", dim)
        reading.linear(f"{ours}.up", f"{theirs}.intermediate.dense", wide, dim)
        reading.linear(f"{ours}.down", f"{theirs}.output.dense", dim, wide)
    reading.norm("norm", "layernorm", dim)
    if reading.output == "classes":
        reading.linear("head", "classifier", reading.classes, dim)
    if reading.wishes.padding:
        raise ArtifactError(f"{fields.path}: images have no padding token; leave out --padding")
    return ModelConfig.from_dict(
        {
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "mlp_dim": wide,
            "activation": fields.choice("hidden_act", ACTIVATION_NAMES, "gelu"),
            "norm_epsilon": fields.number("layer_norm_eps", 1e-12),
            "tokens": tokens,
            "features": features,
            "input_scale": BRIGHTEST if reading.wishes.raw_pixels else None,
            **reading.outputs("first"),
        }
    )


def _of_raw_pixels(reading: Reading, kernel: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The convolution (dim, C, p, p) of prepared pixels as one of raw ones over `BRIGHTEST`.

    A quantized model takes no features below zero; prepared pixels are, raw ones are not.
    """
    prepared = Fields(reading.fields.path.with_name(PREPARATION))
    channels = kernel.shape[1]
    rescaled, normal = (prepared.flag(f"do_{what}", True) for what in ("rescale", "normalize"))
    factor = prepared.number("rescale_factor", 1 / BRIGHTEST) if rescaled else 1.0
    mean, deviation = torch.zeros(channels), torch.ones(channels)
    if normal:
        mean = torch.tensor(prepared.numbers("image_mean", channels))
        deviation = torch.tensor(prepared.numbers("image_std", channels))
        if not bool((deviation > 0).all()):
            raise prepared.error("image_std", "numbers above zero")
    kernel = kernel / deviation[:, None, None]
    bias = bias - (kernel * mean[:, None, None]).sum((1, 2, 3))
    reading.folded.append(f"pixels: {PREPARATION} is in the map of patches, pixels are 0 to 255")
    return kernel * (factor * BRIGHTEST), bias


def image_tokens(pixels: Tensor, patch: int) -> Tensor:
    """Images (B, C, H, W) to what an imported ViT reads, (B, 1 + patches, C * patch * patch).

    >>> image_tokens(torch.arange(16.0).reshape(1, 1, 4, 4), 2)[0, :2].tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 4.0, 5.0]]
    """
    if pixels.ndim != 4 or pixels.shape[2] % patch or pixels.shape[3] % patch:
        raise InputError(
            f"pixels have shape {tuple(pixels.shape)}; give (images, channels, rows, columns),"
            f" rows and columns multiples of {patch}"
        )
    batch, channels, height, width = pixels.shape
    cut = pixels.reshape(batch, channels, height // patch, patch, width // patch, patch)
    rows = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)
    return torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1)


VIT = Family(
    "ViT",
    {"ForImageClassification": "classes", "ForMaskedImageModeling": "hidden", "Model": "hidden"},
    "vit.", "embeddings.cls_token",
    (r"pooler\..*", r"classifier\..*", r"decoder\..*"),
    (r"embeddings\.mask_token",), read_vit,
)  # fmt: skip
