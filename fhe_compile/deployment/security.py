"""A specification of keys in, nothing or a refusal out: each noise against the 128-bit curve.

A client makes the keys that a `client.zip` asks for. With too little noise, or under too short a
secret key, they are still keys and still compute, and whoever sees them reads everything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from torusformer import ArtifactError
from torusformer.fhe_compile.deployment.specification import Specification

_SLACK = 1e-6  # of a variance: what Concrete writes was rounded once or twice


@dataclass(frozen=True)
class Curve:
    """log2 of the least standard deviation, over the dimension, and where it begins."""

    source: str
    about: str
    security_bits: int
    modulus_bits: int
    slope: float
    bias: float
    least_dimension: int
    least_log2_std: float

    def least_variance(self, dimension: int) -> float:
        """On the torus, of noise under a binary secret key; infinite where none is enough.

        >>> f"{curve().least_variance(724):.3g}"
        '2.57e-10'
        """
        if dimension < self.least_dimension:
            return math.inf
        return 4.0 ** max(self.slope * dimension + self.bias, self.least_log2_std)


@cache
def curve() -> Curve:
    """Concrete's, for 128 bits."""
    place = resources.files("torusformer.fhe_compile.deployment") / "data" / "security.json"
    return Curve(**json.loads(place.read_text()))


def check_security(specification: Specification, place: str) -> None:
    """ArtifactError for the first noise below the curve."""
    bits = curve().security_bits
    for what, dimension, variance in _noises(specification):
        least = curve().least_variance(dimension)
        if math.isinf(least):
            raise ArtifactError(
                f"{place}: {what} is under a secret key of {dimension} bits, {bits}-bit security "
                f"needs {curve().least_dimension} at least, whatever the noise; no keys were made, "
                f"get the deployment from whom you trust"
            )
        if variance < least * (1 - _SLACK):
            raise ArtifactError(
                f"{place}: {what} has noise of variance {variance:.3g} under a secret key of "
                f"{dimension} bits, {bits}-bit security needs {least:.3g} at least; no keys were "
                f"made, get the deployment from whom you trust"
            )


def _noises(specification: Specification) -> Iterator[tuple[str, int, float]]:
    """Whatever is encrypted: what it is, the length of the secret key, and its variance."""
    for key in specification.keyset.evaluation:
        what = f"{type(key).__name__} {key.id}"
        yield what, key.params.output_dimension, key.params.variance
    for function in specification.circuits:
        for i, gate in enumerate(function.inputs):
            encryption = gate.ciphertext.encryption
            what = f"input {i} of {function.name}"
            yield what, encryption.lwe_dimension, encryption.variance
