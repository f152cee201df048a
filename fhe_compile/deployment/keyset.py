"""The keys that a circuit takes, from Concrete's specification: every field checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# Far beyond what Concrete's optimizer chooses; far below what makes a machine run out of memory.
Dimension = Annotated[int, Field(ge=1, le=2**18)]
Identifier = Annotated[int, Field(ge=0, lt=2**10)]
Levels = Annotated[int, Field(ge=1, le=64)]
Variance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Compression = Literal["none", "seed"]


class Part(BaseModel):
    """Frozen, every field checked, unknown ones refused; names as Concrete writes them."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", alias_generator=to_camel, allow_inf_nan=False
    )


class Empty(Part):
    """No field."""


class Native(Part):
    """Of 2**64, or one ciphertext a number."""

    native: Empty


class Modulus(Part):
    """Of ciphertexts: of 64-bit integers, as they are."""

    modulus: Native


class SecretKeyParams(Part):
    """Of a secret key."""

    lwe_dimension: Dimension
    integer_precision: Literal[64]
    key_type: Literal["binary"]


class SecretKey(Part):
    """What a secret key is called and how long it is."""

    id: Identifier
    params: SecretKeyParams


class _KeyParams(Part):
    level_count: Levels
    base_log: Levels
    variance: Variance
    integer_precision: Literal[64]
    modulus: Modulus
    key_type: Literal["binary"]
    input_lwe_dimension: Dimension


class BootstrapKeyParams(_KeyParams):
    """Of a bootstrap key."""

    glwe_dimension: Annotated[int, Field(ge=1, le=64)]
    polynomial_size: Dimension

    @property
    def output_dimension(self) -> int:
        """Of the secret key under which the bootstrap key is encrypted."""
        return self.glwe_dimension * self.polynomial_size


class KeyswitchKeyParams(_KeyParams):
    """Of a keyswitch key."""

    output_lwe_dimension: Dimension

    @property
    def output_dimension(self) -> int:
        """Of the secret key under which the keyswitch key is encrypted."""
        return self.output_lwe_dimension


class _EvaluationKey(Part):
    id: Identifier
    input_id: Identifier
    output_id: Identifier
    compression: Compression


class BootstrapKey(_EvaluationKey):
    """From one secret key to another."""

    params: BootstrapKeyParams

    @property
    def size(self) -> int:
        """In bytes, as it travels."""
        p = self.params
        rows, seeded = p.glwe_dimension + 1, self.compression == "seed"
        words = p.input_lwe_dimension * p.level_count * rows * p.polynomial_size
        return 8 * (words + 2 if seeded else words * rows)


class KeyswitchKey(_EvaluationKey):
    """From one secret key to another."""

    params: KeyswitchKeyParams

    @property
    def size(self) -> int:
        """In bytes, as it travels."""
        p = self.params
        words, seeded = p.input_lwe_dimension * p.level_count, self.compression == "seed"
        return 8 * (words + 2 if seeded else words * (p.output_lwe_dimension + 1))


class Keyset(Part):
    """All keys of a circuit."""

    lwe_secret_keys: Annotated[list[SecretKey], Field(max_length=64)]
    lwe_bootstrap_keys: Annotated[list[BootstrapKey], Field(max_length=64)]
    lwe_keyswitch_keys: Annotated[list[KeyswitchKey], Field(max_length=256)]
    packing_keyswitch_keys: Annotated[list[Empty], Field(max_length=0)]

    @property
    def evaluation(self) -> Iterator[BootstrapKey | KeyswitchKey]:
        """Those that the server gets."""
        yield from self.lwe_bootstrap_keys
        yield from self.lwe_keyswitch_keys
