"""Real numbers in, ciphertexts out, and decrypted answers back: the side with the secret key.

>>> client = Client("runs/digits/deployment")                     # doctest: +SKIP
>>> request = client.encrypt(client.quantize(image))              # doctest: +SKIP
>>> answer = server.run(request, client.evaluation_keys())        # doctest: +SKIP
>>> client.dequantize(client.decrypt(answer))["logits"].argmax()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.circuit.backend import (
    client_for,
    decrypt_output,
    fhe,
    use_keys,
)
from torusformer.fhe_compile.circuit.circuit import ONLY
from torusformer.fhe_compile.deployment.archives import CLIENT
from torusformer.fhe_compile.deployment.interface import Interface
from torusformer.fhe_compile.deployment.security import check_security
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.ports import (
    check_array,
    check_ports,
    check_shape,
    dequantize_array,
    named_inputs,
    quantize_array,
)
from torusformer.serving.declared import check_value
from torusformer.serving.messages import digest, pack, unpack

Agreed = TypeVar("Agreed", bound=Interface)


class KeyHolder(Generic[Agreed]):
    """Keys, encryption and decryption for one deployment. Never sees the circuit.

    With `trust`, a public key, the deployment has to be signed with it.
    """

    def __init__(
        self, kind: type[Agreed], folder: str | Path, trust: str | Path | None = None
    ) -> None:
        trusted = None if trust is None else Path(trust)
        self.interface = kind.load(Path(folder), CLIENT, trusted)
        specification = self.interface.specification
        check_security(specification, str(Path(folder) / CLIENT))
        self._inner = client_for(specification.to_json())
        self._key_id = ""

    def keygen(self, force: bool = False) -> None:
        """Make the secret and evaluation keys; once, unless `force`."""
        self._inner.keygen(force=force)
        if force:
            self._key_id = ""

    def share_keys(self, other: KeyHolder[Any]) -> None:
        """Take the keys of `other`, for a circuit that was compiled with `--keys-of` its own.

        The server of this deployment takes the evaluation keys that `other` made.

        Raises:
            InputError: this circuit was compiled for other keys.
        """
        mine, its = self.interface, other.interface
        if mine.keys_id != its.keys_id or mine.specification.keyset != its.specification.keyset:
            raise InputError(
                "the two deployments take different keys; compile one with --keys-of the other"
            )
        other.keygen()
        use_keys(self._inner, other._inner)
        self._key_id = other.key_id

    def evaluation_keys(self) -> bytes:
        """What the server needs to compute on ciphertexts; it cannot decrypt with them."""
        keys = self._inner.evaluation_keys.serialize()
        message = pack("evaluation keys", self.interface.keys_id, [keys])
        self._key_id = digest(message)
        return message

    @property
    def key_id(self) -> str:
        """Tells these keys from others."""
        if not self._key_id:
            self.evaluation_keys()
        return self._key_id

    def _encrypted(self, function: str, values: Mapping[str, IntArray]) -> list[bytes]:
        """Some inputs of a function, in its order, as serialized ciphertexts."""
        ports = self.interface.functions[function].inputs
        arguments = [
            e.encode(check_array(e.port, values[e.port.name])) if e.port.name in values else None
            for e in ports
        ]
        found = self._inner.encrypt(*arguments, function_name=function)
        found = found if isinstance(found, tuple) else (found,)
        return [bytes(value.serialize()) for value in found if value is not None]

    def _decrypted(self, function: str, values: Mapping[str, bytes]) -> dict[str, IntArray]:
        """Some outputs of a function, serialized ciphertexts, as program integers."""
        ports = self.interface.functions[function].outputs
        gates = self.interface.specification.functions[function].outputs
        found = {}
        for i, (encoded, gate) in enumerate(zip(ports, gates, strict=False)):
            if (name := encoded.port.name) in values:
                check_value("outputs", values[name], gate)
                value = fhe.Value.deserialize(values[name])
                rep = np.asarray(decrypt_output(self._inner, function, i, value))
                found[name] = encoded.decode(rep)
        return found


class Client(KeyHolder[Interface]):
    """Asks a circuit: real numbers or integers in, a message out, and the answer back."""

    def __init__(self, folder: str | Path, trust: str | Path | None = None) -> None:
        super().__init__(Interface, folder, trust)

    @property
    def labels(self) -> Mapping[str, str]:
        """What the program's author wrote down: task, labels, preset."""
        return self.interface.metadata

    def quantize(self, inputs: Mapping[str, ArrayLike] | ArrayLike) -> dict[str, IntArray]:
        """round(x / scale + zero_point), clipped to the port's range, as in training."""
        ports = tuple(encoded.port for encoded in self.interface.inputs)
        result = {}
        for port, value in zip(ports, named_inputs(ports, inputs), strict=True):
            check_shape(port, value, port.real_shape)
            result[port.name] = quantize_array(port, value)
        return result

    def encrypt(self, inputs: Mapping[str, ArrayLike] | ArrayLike) -> bytes:
        """Program integers, by port name or bare, to a message for the server."""
        checked = check_ports(tuple(e.port for e in self.interface.inputs), inputs)
        return pack("inputs", self.interface.circuit_id, self._encrypted(ONLY, checked))

    def decrypt(self, answer: bytes) -> dict[str, IntArray]:
        """The server's answer to program integers, by output name."""
        values = unpack("outputs", self.interface.circuit_id, answer)
        names = [e.port.name for e in self.interface.outputs]
        if len(values) != len(names):
            raise ArtifactError(
                f"the message holds {len(values)} outputs, the circuit gives {len(names)}"
            )
        return self._decrypted(ONLY, dict(zip(names, values, strict=True)))

    def dequantize(self, outputs: Mapping[str, IntArray]) -> dict[str, NDArray[np.float64]]:
        """scale * (integer - zero_point) of every output."""
        ports = (encoded.port for encoded in self.interface.outputs)
        return {port.name: dequantize_array(port, outputs[port.name]) for port in ports}
