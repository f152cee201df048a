"""LLaMA in, our configuration out: RMS norms, rotations, gates, grouped keys.

arXiv 2302.13971. A rotation there turns dimension i with i + d / 2, ours 2i with 2i + 1: rows of
queries and keys change places, which no score notices.
"""

from __future__ import annotations

from torch import Tensor

from torusformer import ArtifactError
from torusformer.models.config import ModelConfig
from torusformer.models.foreign.gpt2 import read_token_head
from torusformer.models.foreign.reading import ACTIVATION_NAMES, Family, Reading

LONGEST = 512  # tokens where nobody asks for more: positions cost nothing, but attention does


def read_llama(reading: Reading) -> ModelConfig:
    """LLaMA 1 to 3; scaled rotations are refused."""
    fields, weights, state = reading.fields, reading.weights, reading.state
    fields.require("rope_scaling", None)
    base = fields.number("rope_theta", 10_000.0)
    if rope := fields.mapping("rope_parameters"):  # as later releases write it
        base = rope.get("rope_theta", base)
        plain = rope.get("rope_type", "default") == "default" and type(base) in (int, float)
        if not plain or set(rope) - {"rope_type", "rope_theta"} or base <= 0:
            raise fields.error("rope_parameters", 'the rope_type "default" and a rope_theta alone')
    dim, layers, vocabulary, heads, wide = (
        fields.count(name)
        for name in ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads",
                     "intermediate_size")
    )  # fmt: skip
    groups = fields.optional_count("num_key_value_heads") or heads
    d = fields.optional_count("head_dim") or dim // heads or 1
    if d % 2:
        raise ArtifactError(
            f"{fields.path}: its heads have {d} dimensions, and rotations turn pairs of them; give"
            " an even head_dim"
        )
    biased, mlp_biased = (fields.flag(f"{part}_bias", False) for part in ("attention", "mlp"))
    state["embed.weight"] = weights.take("embed_tokens.weight", vocabulary, dim)
    for i in range(layers):
        ours, theirs = f"blocks.{i}.attention", f"layers.{i}.self_attn"
        for part, count in (("query", heads), ("key", groups), ("value", groups)):
            name = f"{theirs}.{part[0]}_proj"
            reading.linear(f"{ours}.{part}", name, count * d, dim, bias=biased)
            if part != "value":
                for kind in ("weight", "bias"):
                    at = f"{ours}.{part}.{kind}"
                    state[at] = in_pairs(state[at], count)
        reading.linear(f"{ours}.out", f"{theirs}.o_proj", dim, heads * d, bias=biased)
        ours, theirs = f"blocks.{i}", f"layers.{i}"
        reading.norm(f"{ours}.norm1", f"{theirs}.input_layernorm", dim, bias=False)
        reading.norm(f"{ours}.norm2", f"{theirs}.post_attention_layernorm", dim, bias=False)
        for part in ("up", "gate"):
            reading.linear(f"{ours}.{part}", f"{theirs}.mlp.{part}_proj", wide, dim,
                           bias=mlp_biased)  # fmt: skip
        reading.linear(f"{ours}.down", f"{theirs}.mlp.down_proj", dim, wide, bias=mlp_biased)
    reading.folded.append("rotations: rows of queries and keys in pairs instead of halves")
    reading.norm("norm", "norm", dim, bias=False)
    tied = read_token_head(reading, vocabulary, dim, tied=False)
    most = fields.count("max_position_embeddings", 2048)
    return ModelConfig.from_dict(
        {
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "kv_heads": groups,
            "head_dim": d,
            "mlp_dim": wide,
            "gated": True,
            "activation": fields.choice("hidden_act", ACTIVATION_NAMES, "silu"),
            "norm": "rms",
            "norm_epsilon": fields.number("rms_norm_eps", 1e-6),
            "positions": "rotary",
            "rotary_base": float(base),
            "tokens": reading.tokens(most) if reading.wishes.tokens else min(most, LONGEST),
            "vocabulary": vocabulary,
            "causal": True,
            "tied": tied,
            **reading.outputs("last"),
            **reading.padding(None),
        }
    )


def in_pairs(rows: Tensor, heads: int) -> Tensor:
    """Rows (heads * d, ...) with i and i + d / 2 of each head beside each other.

    >>> in_pairs(Tensor([0, 1, 2, 3]), 1).tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


LLAMA = Family(
    "Llama", {"ForSequenceClassification": "classes", "ForCausalLM": "tokens", "Model": "hidden"},
    "model.", "embed_tokens.weight",
    (r"lm_head\.weight", r"score\.weight"),
    (r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",), read_llama,
)  # fmt: skip
