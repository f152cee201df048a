"""BERT and its kin in, our configuration out: norms behind residual sums, learned positions.

BERT (MiniLM is one): arXiv 1810.04805, 2002.10957; RoBERTa: 1907.11692; DistilBERT: 1910.01108.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torusformer.models.config import ModelConfig
from torusformer.models.foreign.reading import ACTIVATION_NAMES, Family, Output, Reading

_SMALLEST = 1e-12  # what all of them add to a variance


@dataclass(frozen=True)
class _Names:
    """What a family calls its layers; of block i, behind `block`.i."""

    block: str
    query: str
    key: str
    value: str
    out: str
    norm1: str
    up: str
    down: str
    norm2: str


_BERT = _Names(
    block="encoder.layer",
    query="attention.self.query", key="attention.self.key", value="attention.self.value",
    out="attention.output.dense", norm1="attention.output.LayerNorm",
    up="intermediate.dense", down="output.dense", norm2="output.LayerNorm",
)  # fmt: skip
_DISTILBERT = _Names(
    block="transformer.layer",
    query="attention.q_lin", key="attention.k_lin", value="attention.v_lin",
    out="attention.out_lin", norm1="sa_layer_norm",
    up="ffn.lin1", down="ffn.lin2", norm2="output_layer_norm",
)  # fmt: skip


def read_bert(reading: Reading, *, roberta: bool = False) -> ModelConfig:
    """BERT, or RoBERTa, whose positions begin behind the id of its padding."""
    fields, weights = reading.fields, reading.weights
    fields.require("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        fields.require(name, False)
    dim, vocabulary = fields.count("hidden_size"), fields.count("vocab_size")
    rows = fields.count("max_position_embeddings")
    pad = fields.optional_count("pad_token_id")
    skipped = (1 if pad is None else pad) + 1 if roberta else 0
    shape = {
        "dim": dim,
        "layers": fields.count("num_hidden_layers"),
        "heads": fields.count("num_attention_heads"),
        "mlp_dim": fields.count("intermediate_size"),
        "activation": fields.choice("hidden_act", ACTIVATION_NAMES, "gelu"),
        "norm_epsilon": fields.number("layer_norm_eps", _SMALLEST),
    }
    tokens = reading.positions("embeddings.position_embeddings.weight", rows, dim, skipped)
    if skipped:
        reading.folded.append(f"positions: token 0 has row {skipped}, as RoBERTa counts")
    table = weights.take("embeddings.word_embeddings.weight", vocabulary, dim)
    kinds = fields.count("type_vocab_size", 2, least=0)
    if kinds:
        types = weights.take("embeddings.token_type_embeddings.weight", kinds, dim)
        table = table + types[0]
        reading.folded.append("token types: type 0 is added to every token's embedding")
    reading.state["embed.weight"] = table
    reading.norm("embed_norm", "embeddings.LayerNorm", dim)
    _blocks(reading, _BERT, shape)
    if reading.output == "classes":
        first, last = (
            ("classifier.dense", "classifier.out_proj")
            if roberta
            else ("pooler.dense", "classifier")
        )
        reading.linear("pooler", first, dim, dim)
        reading.linear("head", last, reading.classes, dim)
        shape["pooler"] = "tanh"
    return _config(reading, shape, tokens=tokens, vocabulary=vocabulary, pad=1 if roberta else 0)


def read_distilbert(reading: Reading) -> ModelConfig:
    """DistilBERT: BERT without token types; its classifier's first layer ends in ReLU."""
    fields, weights = reading.fields, reading.weights
    dim, vocabulary = fields.count("dim", 768), fields.count("vocab_size")
    shape = {
        "dim": dim,
        "layers": fields.count("n_layers", 6),
        "heads": fields.count("n_heads", 12),
        "mlp_dim": fields.count("hidden_dim", 3072),
        "activation": fields.choice("activation", ACTIVATION_NAMES, "gelu"),
        "norm_epsilon": _SMALLEST,
    }
    rows = fields.count("max_position_embeddings", 512)
    tokens = reading.positions("embeddings.position_embeddings.weight", rows, dim)
    reading.state["embed.weight"] = weights.take(
        "embeddings.word_embeddings.weight", vocabulary, dim
    )
    reading.norm("embed_norm", "embeddings.LayerNorm", dim)
    _blocks(reading, _DISTILBERT, shape)
    if reading.output == "classes":
        reading.linear("pooler", "pre_classifier", dim, dim)
        reading.linear("head", "classifier", reading.classes, dim)
        shape["pooler"] = "relu"
    return _config(reading, shape, tokens=tokens, vocabulary=vocabulary, pad=0)


def _blocks(reading: Reading, names: _Names, shape: dict[str, Any]) -> None:
    dim, wide = shape["dim"], shape["mlp_dim"]
    for i in range(shape["layers"]):
        ours, theirs = f"blocks.{i}", f"{names.block}.{i}"
        for part in ("query", "key", "value", "out"):
            reading.linear(f"{ours}.attention.{part}", f"{theirs}.{getattr(names, part)}", dim, dim)
        reading.norm(f"{ours}.norm1", f"{theirs}.{names.norm1}", dim)
        reading.linear(f"{ours}.up", f"{theirs}.{names.up}", wide, dim)
        reading.linear(f"{ours}.down", f"{theirs}.{names.down}", dim, wide)
        reading.norm(f"{ours}.norm2", f"{theirs}.{names.norm2}", dim)


def _config(
    reading: Reading, shape: dict[str, Any], *, tokens: int, vocabulary: int, pad: int
) -> ModelConfig:
    common = {"post_norm": True, "embed_norm": True}
    ends = reading.outputs("first") | reading.padding(pad)
    return ModelConfig.from_dict(
        {**shape, **common, **ends, "tokens": tokens, "vocabulary": vocabulary}
    )


_OUTPUTS: Mapping[str, Output] = {
    "ForSequenceClassification": "classes",
    "ForMaskedLM": "hidden",
    "ForPreTraining": "hidden",
    "Model": "hidden",
}
_ANCHOR = "embeddings.word_embeddings.weight"
_POSITION_IDS = (r"embeddings\.(position_ids|token_type_ids)",)

BERT = Family(
    "Bert", _OUTPUTS, "bert.", _ANCHOR,
    (r"pooler\..*", r"cls\..*", r"classifier\..*"), _POSITION_IDS, read_bert,
)  # fmt: skip
ROBERTA = Family(
    "Roberta", _OUTPUTS, "roberta.", _ANCHOR,
    (r"pooler\..*", r"lm_head\..*", r"classifier\..*"), _POSITION_IDS,
    partial(read_bert, roberta=True),
)  # fmt: skip
DISTILBERT = Family(
    "DistilBert", _OUTPUTS, "distilbert.", _ANCHOR,
    (r"pre_classifier\..*", r"classifier\..*", r"vocab_(transform|layer_norm|projector)\..*"),
    _POSITION_IDS, read_distilbert,
)  # fmt: skip
