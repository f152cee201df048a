"""GPT-2 in, our configuration out: layers as (in, out), queries, keys and values in one.

Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
"""

from __future__ import annotations

import torch

from torusformer import ArtifactError
from torusformer.models.config import ModelConfig
from torusformer.models.foreign.reading import ACTIVATION_NAMES, Family, Reading


def read_gpt2(reading: Reading) -> ModelConfig:
    """GPT-2: causal, norms before, logits read off the embedding."""
    fields, weights, state = reading.fields, reading.weights, reading.state
    fields.require("add_cross_attention", False)
    dim, layers, vocabulary = (fields.count(n) for n in ("n_embd", "n_layer", "vocab_size"))
    wide = fields.optional_count("n_inner") or 4 * dim
    tokens = reading.positions("wpe.weight", fields.count("n_positions", 1024), dim)
    state["embed.weight"] = weights.take("wte.weight", vocabulary, dim)
    scaled, inverse = (
        fields.flag(name, default)
        for name, default in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx",
                                                             False))
    )  # fmt: skip
    heads = fields.count("n_head")
    for i in range(layers):
        ours, theirs = f"blocks.{i}", f"h.{i}"
        # The factor of a score that ours has not, in the queries.
        factor = (1.0 if scaled else (dim / heads) ** 0.5) / (i + 1 if inverse else 1)
        weight = weights.take(f"{theirs}.attn.c_attn.weight", dim, 3 * dim).T.chunk(3)
        bias = weights.take(f"{theirs}.attn.c_attn.bias", 3 * dim).chunk(3)
        for part, w, b in zip(("query", "key", "value"), weight, bias, strict=True):
            by = factor if part == "query" else 1.0
            state[f"{ours}.attention.{part}.weight"] = w.contiguous() * by
            state[f"{ours}.attention.{part}.bias"] = b.clone() * by
        _transposed(reading, f"{ours}.attention.out", f"{theirs}.attn.c_proj", dim, dim)
        reading.norm(f"{ours}.norm1", f"{theirs}.ln_1", dim)
        reading.norm(f"{ours}.norm2", f"{theirs}.ln_2", dim)
        _transposed(reading, f"{ours}.up", f"{theirs}.mlp.c_fc", wide, dim)
        _transposed(reading, f"{ours}.down", f"{theirs}.mlp.c_proj", dim, wide)
    if inverse or not scaled:
        reading.folded.append("scores: their scale is in the queries' weights")
    reading.norm("norm", "ln_f", dim)
    tied = read_token_head(reading, vocabulary, dim, tied=True)
    return ModelConfig.from_dict(
        {
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "mlp_dim": wide,
            "activation": fields.choice("activation_function", ACTIVATION_NAMES, "gelu_new"),
            "norm_epsilon": fields.number("layer_norm_epsilon", 1e-5),
            "tokens": tokens,
            "vocabulary": vocabulary,
            "causal": True,
            "tied": tied,
            **reading.outputs("last"),
            **reading.padding(None),
        }
    )


def read_token_head(reading: Reading, vocabulary: int, dim: int, *, tied: bool) -> bool:
    """What a causal model's head is, without a bias; whether its logits are the embedding's."""
    state, weights = reading.state, reading.weights
    if reading.output == "classes":
        reading.linear("head", "score", reading.classes, dim, bias=False)
    if reading.output != "tokens":
        return False
    tied = reading.fields.flag("tie_word_embeddings", tied)
    state["head.weight"] = state["embed.weight"]
    state["head.bias"] = torch.zeros(vocabulary)
    if tied and "lm_head.weight" not in weights:
        return True
    state["head.weight"] = weights.take("lm_head.weight", vocabulary, dim)
    if not tied:
        return False
    if not torch.equal(state["head.weight"], state["embed.weight"]):
        raise ArtifactError(
            f"{reading.fields.path}: tie_word_embeddings is true, but lm_head.weight is another"
            " matrix than the embedding; say false there if it is meant"
        )
    return True


def _transposed(reading: Reading, ours: str, theirs: str, out: int, into: int) -> None:
    weight = reading.weights.take(f"{theirs}.weight", into, out)
    reading.state[f"{ours}.weight"] = weight.T.contiguous()
    reading.state[f"{ours}.bias"] = reading.weights.take(f"{theirs}.bias", out)


GPT2 = Family(
    "GPT2", {"ForSequenceClassification": "classes", "LMHeadModel": "tokens", "Model": "hidden"},
    "transformer.", "wte.weight",
    (r"lm_head\.weight", r"score\.weight"), (r"h\.\d+\.attn\.(bias|masked_bias)",), read_gpt2,
)  # fmt: skip
