"""Concrete's client specification in, as JSON; keys and ports with every field checked out.

What passes here is all that Concrete ever sees of a `client.zip`: it is handed what was read, not
the bytes that it was read from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from torusformer import ArtifactError
from torusformer.fhe_compile.deployment.keyset import (
    Compression,
    Dimension,
    Identifier,
    Keyset,
    Modulus,
    Native,
    Part,
    Variance,
)

Length = Annotated[int, Field(ge=0, lt=2**32)]
Shape = Annotated[list[Length], Field(max_length=16)]
VALUES_LIMIT = 2**34  # bytes of one input or output
KEYS_LIMIT = 2**38  # bytes of all evaluation keys


class Dimensions(Part):
    """Of a tensor."""

    dimensions: Shape


class RawInfo(Part):
    """Of the integers that a value is sent as."""

    shape: Dimensions
    integer_precision: Literal[64]
    is_signed: bool


class Encryption(Part):
    """Under which key and with how much noise."""

    key_id: Identifier
    variance: Variance
    lwe_dimension: Dimension
    modulus: Modulus


class IntegerEncoding(Part):
    """Of the number in a ciphertext."""

    width: Annotated[int, Field(ge=1, le=63)]
    is_signed: bool
    mode: Native


class Encoding(Part):
    """Integers are all that we encrypt."""

    integer: IntegerEncoding


class Ciphertext(Part):
    """Of a tensor of ciphertexts."""

    abstract_shape: Dimensions
    concrete_shape: Dimensions
    integer_precision: Literal[64]
    encryption: Encryption
    compression: Compression
    encoding: Encoding

    @property
    def expected_shape(self) -> list[int]:
        """Of the integers: a seed of two and a body, or a mask and a body, for each number."""
        last = 3 if self.compression == "seed" else self.encryption.lwe_dimension + 1
        return [*self.abstract_shape.dimensions, last]


class TypeInfo(Part):
    """Nothing passes in the clear."""

    lwe_ciphertext: Ciphertext


class Gate(Part):
    """One input or output."""

    raw_info: RawInfo
    type_info: TypeInfo

    @property
    def ciphertext(self) -> Ciphertext:
        """What it is."""
        return self.type_info.lwe_ciphertext

    @property
    def size(self) -> int:
        """In bytes, as it travels."""
        return 8 * math.prod(self.ciphertext.concrete_shape.dimensions)


class Function(Part):
    """A compiled function."""

    name: str
    inputs: list[Gate]
    outputs: list[Gate]


class Specification(Part):
    """Of a module: its keys and its functions."""

    keyset: Keyset
    circuits: Annotated[list[Function], Field(min_length=1)]

    @classmethod
    def from_json(cls, data: bytes, place: str) -> Specification:
        """Read and check; ArtifactError for what Concrete would not write or could not keep."""
        try:
            fields = json.loads(data)
            if isinstance(fields, dict):
                fields.pop("tfhers_specs", None)  # of another library, which is not used here
            found = cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ArtifactError(
                f"{place}: its specification has at {where or 'the top'} what cannot be there "
                f"({first['msg']}); compile the program again"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ArtifactError(
                f"{place}: its specification is truncated or not JSON; compile the program again"
            ) from error
        for wrong in found._contradictions():
            raise ArtifactError(
                f"{place}: its specification contradicts itself: {wrong}; compile the program again"
            )
        return found

    def to_json(self) -> str:
        """For Concrete: nothing but what was read."""
        return json.dumps(self.model_dump(by_alias=True))

    @property
    def functions(self) -> dict[str, Function]:
        """By name."""
        return {function.name: function for function in self.circuits}

    @property
    def secret_dimensions(self) -> dict[int, int]:
        """Length of each secret key, by its number."""
        return {key.id: key.params.lwe_dimension for key in self.keyset.lwe_secret_keys}

    def _contradictions(self) -> Iterator[str]:
        lengths = self.secret_dimensions
        if len(lengths) != len(self.keyset.lwe_secret_keys):
            yield "two secret keys have one number"
        if len(self.functions) != len(self.circuits):
            yield "two functions have one name"
        for key in self.keyset.evaluation:
            kind = type(key).__name__
            if lengths.get(key.input_id) != key.params.input_lwe_dimension:
                yield f"{kind} {key.id} begins at a secret key of another length"
            if lengths.get(key.output_id) != key.params.output_dimension:
                yield f"{kind} {key.id} ends at a secret key of another length"
            if key.params.level_count * key.params.base_log > 64:
                yield f"{kind} {key.id} has more levels than 64 bits"
        for bootstrap in self.keyset.lwe_bootstrap_keys:
            if bootstrap.params.polynomial_size.bit_count() != 1:
                yield f"BootstrapKey {bootstrap.id} has a polynomial size that is no power of two"
        if sum(key.size for key in self.keyset.evaluation) > KEYS_LIMIT:
            yield f"evaluation keys of more than {KEYS_LIMIT} bytes"
        for function in self.circuits:
            for gate in (*function.inputs, *function.outputs):
                yield from _gate_contradictions(function.name, gate, lengths)


def _gate_contradictions(name: str, gate: Gate, lengths: dict[int, int]) -> Iterator[str]:
    ciphertext = gate.ciphertext
    if lengths.get(ciphertext.encryption.key_id) != ciphertext.encryption.lwe_dimension:
        yield f"a port of {name} is encrypted under a secret key of another length"
    shapes = (ciphertext.concrete_shape.dimensions, gate.raw_info.shape.dimensions)
    if shapes != (ciphertext.expected_shape, ciphertext.expected_shape):
        yield f"a port of {name} has two shapes"
    if gate.size > VALUES_LIMIT:
        yield f"a port of {name} is larger than {VALUES_LIMIT} bytes"
