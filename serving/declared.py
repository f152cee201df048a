"""What Concrete serialized in, and what it says of itself out: checked against a specification.

Concrete takes a key or a ciphertext at its word, and computes past the end of one that is shorter
than it says. The places of the fields are those of `concrete-protocol.capnp` of Concrete 2.10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torusformer import ArtifactError
from torusformer.fhe_compile.deployment.keyset import BootstrapKey, Keyset, KeyswitchKey
from torusformer.fhe_compile.deployment.specification import Gate
from torusformer.serving.capnp import Message, MessageError, Struct

_COMPRESSION = ("none", "seed", "paillier")
_KEY_TYPE = ("binary", "ternary")
_BLOB = (2**29 - 1) // 8 * 8  # bytes of all blobs of a payload but the last


def check_evaluation_keys(data: bytes, keyset: Keyset) -> None:
    """ArtifactError unless these are keys of exactly these parameters, and whole."""
    try:
        _check_keys(Message(data).root, keyset)
    except MessageError as error:
        raise ArtifactError(
            f"the message holds something that is not evaluation keys of this circuit: {error}; "
            f"make them again with the deployment that the server has"
        ) from error


def check_value(what: str, data: bytes, gate: Gate) -> None:
    """ArtifactError unless this is a tensor of ciphertexts that fits the port.

    An input is as the client sent it or as a function of the same module gave it.
    """
    try:
        _check_value(Message(data).root, gate)
    except MessageError as error:
        raise ArtifactError(
            f"the message holds something that is not {what} of this circuit: {error}; make them "
            f"again with the deployment that the server has"
        ) from error


def _check_keys(root: Struct, keyset: Keyset) -> None:
    """`root`: lists of bootstrap, keyswitch and packing keyswitch keys."""
    if root.structs(2, 0) or root.pointers > 3:
        raise MessageError("it has keys of another kind")
    kinds: list[tuple[Sequence[BootstrapKey | KeyswitchKey], Callable[[Struct], dict[str, Any]]]]
    kinds = [
        (keyset.lwe_bootstrap_keys, _bootstrap_params),
        (keyset.lwe_keyswitch_keys, _keyswitch_params),
    ]
    for index, (expected, params) in enumerate(kinds):
        found = root.structs(index, len(expected))
        if len(found) != len(expected):
            raise MessageError(f"it has {len(found)} keys of a kind, the circuit {len(expected)}")
        for key, wanted in zip(found, expected, strict=True):
            _check_key(key, wanted, params(key.struct(0).struct(0)))


def _check_key(key: Struct, wanted: BootstrapKey | KeyswitchKey, params: dict[str, Any]) -> None:
    info, kind = key.struct(0), type(wanted).__name__
    found = {
        "id": info.unsigned(0),
        "inputId": info.unsigned(4),
        "outputId": info.unsigned(8),
        "params": params,
        "compression": _one_of(_COMPRESSION, info.unsigned(12, 2)),
    }
    expected = wanted.model_dump(by_alias=True)
    if found != expected:
        raise MessageError(f"{kind} {wanted.id} has other parameters than the circuit's")
    _check_payload(key.struct(1), wanted.size, f"{kind} {wanted.id}")


def _bootstrap_params(params: Struct) -> dict[str, Any]:
    return {
        "levelCount": params.unsigned(0),
        "baseLog": params.unsigned(4),
        "glweDimension": params.unsigned(8),
        "polynomialSize": params.unsigned(12),
        "variance": params.real(16),
        "integerPrecision": params.unsigned(24),
        "keyType": _one_of(_KEY_TYPE, params.unsigned(28, 2)),
        "inputLweDimension": params.unsigned(32),
        "modulus": _modulus(params.struct(0)),
    }


def _keyswitch_params(params: Struct) -> dict[str, Any]:
    return {
        "levelCount": params.unsigned(0),
        "baseLog": params.unsigned(4),
        "variance": params.real(8),
        "integerPrecision": params.unsigned(16),
        "keyType": _one_of(_KEY_TYPE, params.unsigned(20, 2)),
        "inputLweDimension": params.unsigned(24),
        "outputLweDimension": params.unsigned(28),
        "modulus": _modulus(params.struct(0)),
    }


def _check_value(root: Struct, gate: Gate) -> None:
    """`root`: payload, how it is laid out, what it is."""
    wanted = gate.ciphertext
    ciphertext, encryption = root.struct(2).struct(0), root.struct(2).struct(0).struct(2)
    raw, encoding = root.struct(1), ciphertext.struct(3)
    compression = _one_of(_COMPRESSION, ciphertext.unsigned(4, 2))
    last = _last_axis(compression, wanted.encryption.lwe_dimension)
    shape = [*wanted.abstract_shape.dimensions, last]
    found = {
        "kind": root.struct(2).unsigned(0, 2),
        "raw": (raw.struct(0).numbers(0), raw.unsigned(0)),
        "abstract": ciphertext.struct(0).numbers(0),
        "concrete": ciphertext.struct(1).numbers(0),
        "precision": ciphertext.unsigned(0),
        "encoding": ciphertext.unsigned(6, 2),
        "key": (encryption.unsigned(0), encryption.unsigned(4)),
        "modulus": _modulus(encryption.struct(0)),
        "number": (encoding.unsigned(0), encoding.flag(32), encoding.unsigned(6, 2)),
    }
    expected = {
        "kind": 0,
        "raw": (shape, 64),
        "abstract": wanted.abstract_shape.dimensions,
        "concrete": shape,
        "precision": 64,
        "encoding": 0,
        "key": (wanted.encryption.key_id, wanted.encryption.lwe_dimension),
        "modulus": {"modulus": {"native": {}}},
        "number": (wanted.encoding.integer.width, wanted.encoding.integer.is_signed, 0),
    }
    for name, value in found.items():
        if value != expected[name]:
            raise MessageError(f"its {name} is another than the circuit's")
    size = 8
    for n in shape:
        size *= n
    _check_payload(root.struct(0), size, "a ciphertext")


def _last_axis(compression: Literal["none", "seed"], dimension: int) -> int:
    """Integers of a ciphertext: a seed of two and a body, or a mask and a body."""
    return 3 if compression == "seed" else dimension + 1


def _check_payload(payload: Struct, size: int, what: str) -> None:
    """Concrete puts the blobs where full ones before them would end."""
    sizes = payload.sizes(0, size // _BLOB + 1)
    if sum(sizes) != size or any(length != _BLOB for length in sizes[:-1]):
        raise MessageError(f"{what} has {sum(sizes)} bytes, its parameters make {size}")


def _modulus(modulus: Struct) -> dict[str, Any]:
    names = ("native", "powerOfTwo", "integer")
    return {"modulus": {_one_of(names, modulus.unsigned(0, 2)): {}}}


def _one_of(names: tuple[str, ...], index: int) -> Any:
    if index >= len(names):
        raise MessageError(f"it has number {index} where {', '.join(names)} are all there is")
    return names[index]
