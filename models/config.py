"""The shape of a transformer: one frozen dataclass and its presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torusformer import InputError

Activation = Literal["gelu", "relu"]
Norm = Literal["layer", "rms", "batch"]
AttentionKind = Literal["softmax", "relu", "quad", "inhibitor", "table"]
Pooling = Literal["mean", "first", "query"]


_CHOICES = (
    ("activation", Activation), ("attention", AttentionKind), ("norm", Norm), ("pooling", Pooling),
)  # fmt: skip


@dataclass(frozen=True)
class TransformerConfig:
    """A pre-norm encoder classifier over inputs of shape (tokens, features).

    `patch` is how a task cuts a 2-D image into tokens, (rows, columns) a token; None means that
    samples already have shape (tokens, features). Inputs are divided by `input_scale` (the
    largest magnitude a raw value takes) before the embedding. `pooling` says what the head reads:
    the mean of all tokens, the first, or, with "query", what a learned query finds in the last
    block's attention (class attention, arXiv 2103.17239). With `skip` the head also reads every
    embedded token: a residual connection around all blocks, which stays linear.

    `attention` is a kind of `models.attention.Attention`, `groups` the codes a head of "table".

    >>> TransformerConfig(tokens=8, features=8, num_classes=10, dim=32, heads=2).score_dim
    16
    """

    tokens: int
    features: int
    num_classes: int
    dim: int = 32
    layers: int = 2
    heads: int = 2
    head_dim: int | None = None
    mlp_dim: int = 64
    activation: Activation = "gelu"
    attention: AttentionKind = "softmax"
    groups: int = 2
    norm: Norm = "layer"
    pooling: Pooling = "mean"
    skip: bool = False
    input_scale: float = 1.0
    patch: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be built, naming the field and a cure."""
        sizes = ("tokens", "features", "dim", "layers", "heads", "groups", "mlp_dim")
        for name in (*sizes, "num_classes", *(("head_dim",) if self.head_dim is not None else ())):
            value, least = getattr(self, name), 2 if name == "num_classes" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}; give a whole number of at least {least}")
        if self.head_dim is None and self.dim % self.heads:
            raise InputError(
                f"dim {self.dim} is not a multiple of heads {self.heads}; change one of them or"
                " set head_dim"
            )
        for name, kinds in _CHOICES:
            if getattr(self, name) not in get_args(kinds):
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(get_args(kinds))}"
                )
        if self.pooling == "query" and self.attention in ("inhibitor", "table"):
            raise InputError(
                f"pooling query asks by products, attention is {self.attention}; "
                "choose pooling mean or first"
            )
        if not self.input_scale > 0:
            raise InputError(f"input_scale is {self.input_scale}; give a positive number")
        if self.patch is not None:
            object.__setattr__(self, "patch", tuple(self.patch))
            if self.patch[0] * self.patch[1] != self.features:
                raise InputError(
                    f"patch {self.patch} holds {self.patch[0] * self.patch[1]} values but features"
                    f" is {self.features}; make them equal"
                )

    @property
    def score_dim(self) -> int:
        """Dimensions of a query, a key and a value of one head."""
        return self.head_dim if self.head_dim is not None else self.dim // self.heads

    @property
    def input_shape(self) -> tuple[int, int]:
        """(tokens, features) of one sample."""
        return (self.tokens, self.features)

    def replace(self, **changes: Any) -> TransformerConfig:
        """A validated copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TransformerConfig:
        """Inverse of `to_dict`; unknown and missing fields are refused by name."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"unknown model setting {unknown[0]!r}; known: {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"incomplete model settings: {error}") from None

    @classmethod
    def from_name(cls, name: str) -> TransformerConfig:
        """A preset by name."""
        if name not in PRESETS:
            raise InputError(f"no preset named {name!r}; choose one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name])


_DIGITS: dict[str, Any] = {"num_classes": 10, "input_scale": 16.0}
_STANDARD: dict[str, Any] = {
    **_DIGITS, "tokens": 8, "features": 8, "patch": (1, 8), "dim": 32, "layers": 2, "heads": 2,
    "head_dim": 4, "mlp_dim": 64, "activation": "gelu", "norm": "layer", "pooling": "mean",
    "skip": True,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    # One block, one pooled query row: seconds an image under encryption.
    "digits-small": {
        **_DIGITS, "tokens": 4, "features": 16, "patch": (4, 4), "dim": 40, "layers": 1,
        "heads": 4, "head_dim": 4, "mlp_dim": 64, "activation": "relu", "norm": "batch",
        "pooling": "first",
    },
    # As few and narrow bootstraps as 96 % take: a learned query, and maps that fold.
    "digits-fast": {
        **_DIGITS, "tokens": 4, "features": 16, "patch": (4, 4), "dim": 24, "layers": 1,
        "heads": 4, "head_dim": 4, "mlp_dim": 48, "activation": "relu", "norm": "batch",
        "pooling": "query", "skip": True,
    },
    # Everything a transformer has: every token attends to every token, twice.
    "digits-standard": _STANDARD,
    # The same with scores from learned tables in place of products.
    "digits-table": {**_STANDARD, "attention": "table"},
    # For tests and the notebook: trains and compiles in seconds.
    "tiny": {
        **_DIGITS, "tokens": 4, "features": 16, "patch": (4, 4), "dim": 8, "layers": 1,
        "heads": 2, "mlp_dim": 8, "activation": "relu", "norm": "batch", "pooling": "first",
    },
}  # fmt: skip
