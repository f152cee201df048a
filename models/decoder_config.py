"""The shape of a causal decoder: one frozen dataclass and its presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torusformer import InputError

DecoderActivation = Literal["gelu", "relu", "swiglu"]
DecoderAttention = Literal["softmax", "sigmoid"]
DecoderNorm = Literal["layer", "rms", "none"]
Positions = Literal["learned", "rotary"]

_CHOICES = (
    ("activation", DecoderActivation), ("attention", DecoderAttention), ("norm", DecoderNorm),
    ("positions", Positions),
)  # fmt: skip
_SIZES = ("vocabulary", "context", "dim", "layers", "heads", "mlp_dim")


@dataclass(frozen=True)
class DecoderConfig:
    """A pre-norm decoder over tokens 0 to `vocabulary` - 1, of which `context` are seen at most.

    `kv_heads` below `heads` is grouped-query attention (arXiv 2305.13245): that many heads of keys
    and values are cached, and groups of query heads share them. `head_dim` is that of queries and
    keys, `value_dim` that of values. `positions` are learned vectors added to the embedding, or
    rotations of queries and keys (arXiv 2104.09864) by angles that fall to `rotary_base` ** -1;
    `distance_bias` adds to a score what a head has learned about the distance of two tokens
    (arXiv 1910.10683). `attention` weighs by a softmax or each token by itself, by a sigmoid
    (arXiv 2409.04431). `tied` reads the logits off the embedding.

    >>> DecoderConfig(vocabulary=27, context=16, dim=32, heads=4).score_dim
    8
    """

    vocabulary: int
    context: int
    dim: int = 32
    layers: int = 1
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    value_dim: int | None = None
    mlp_dim: int = 64
    activation: DecoderActivation = "gelu"
    attention: DecoderAttention = "softmax"
    norm: DecoderNorm = "layer"
    positions: Positions = "learned"
    rotary_base: float = 100.0
    distance_bias: bool = False
    tied: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built, naming the field and a cure."""
        optional = ("kv_heads", "head_dim", "value_dim")
        for name in (*_SIZES, *(n for n in optional if getattr(self, n) is not None)):
            value, least = getattr(self, name), 2 if name == "vocabulary" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}; give a whole number of at least {least}")
        for name, kinds in _CHOICES:
            if getattr(self, name) not in get_args(kinds):
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(get_args(kinds))}"
                )
        if self.head_dim is None and self.dim % self.heads:
            raise InputError(
                f"dim {self.dim} is not a multiple of heads {self.heads}; change one of them or"
                " set head_dim"
            )
        if self.heads % self.groups:
            raise InputError(
                f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}; each head of"
                " keys serves equally many queries"
            )
        if self.positions == "rotary" and self.score_dim % 2:
            raise InputError(
                f"rotary positions turn pairs of dimensions, head_dim is {self.score_dim};"
                " make it even"
            )

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def score_dim(self) -> int:
        """Dimensions of a query and a key of one head."""
        return self.head_dim if self.head_dim is not None else self.dim // self.heads

    @property
    def head_value_dim(self) -> int:
        """Dimensions of a value of one head."""
        return self.value_dim if self.value_dim is not None else self.score_dim

    def replace(self, **changes: Any) -> DecoderConfig:
        """A validated copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecoderConfig:
        """Inverse of `to_dict`; unknown and missing fields are refused by name."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"unknown model setting {unknown[0]!r}; known: {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"incomplete model settings: {error}") from None

    @classmethod
    def from_name(cls, name: str) -> DecoderConfig:
        """A preset by name."""
        if name not in PRESETS:
            raise InputError(f"no preset named {name!r}; choose one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name])


_LETTERS: dict[str, Any] = {"vocabulary": 27}

PRESETS: dict[str, dict[str, Any]] = {
    # As few bootstraps as a good character model takes: no norm, one block whose maps fold.
    "words": {
        **_LETTERS, "context": 16, "dim": 48, "layers": 1, "heads": 4, "head_dim": 2,
        "value_dim": 8, "mlp_dim": 384, "activation": "relu", "attention": "sigmoid",
        "norm": "none", "distance_bias": True,
    },
    # Shaped like GPT-2: layer norm, learned positions, GELU, tied head.
    "words-gpt2": {
        **_LETTERS, "context": 16, "dim": 32, "layers": 2, "heads": 4, "head_dim": 4,
        "mlp_dim": 64, "activation": "gelu", "norm": "layer", "positions": "learned", "tied": True,
    },
    # Shaped like LLaMA: RMS norm, rotary positions, SwiGLU, grouped queries, a head of its own.
    "words-llama": {
        **_LETTERS, "context": 16, "dim": 32, "layers": 2, "heads": 4, "kv_heads": 2,
        "head_dim": 4, "mlp_dim": 48, "activation": "swiglu", "norm": "rms",
        "positions": "rotary",
    },
    # The same three for tests and the notebook: train and compile in seconds.
    "tiny-words": {
        **_LETTERS, "context": 6, "dim": 8, "layers": 1, "heads": 2, "head_dim": 2, "mlp_dim": 12,
        "activation": "relu", "attention": "sigmoid", "norm": "none", "distance_bias": True,
    },
    "tiny-gpt2": {
        **_LETTERS, "context": 3, "dim": 4, "layers": 2, "heads": 2, "head_dim": 2, "mlp_dim": 4,
        "activation": "gelu", "norm": "layer", "positions": "learned", "tied": True,
    },
    "tiny-llama": {
        **_LETTERS, "context": 3, "dim": 4, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 2,
        "mlp_dim": 4, "activation": "swiglu", "norm": "rms", "positions": "rotary",
    },
}  # fmt: skip
