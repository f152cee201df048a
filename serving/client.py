"""Real numbers in, ciphertexts out, and decrypted answers back: the side with the secret key.

>>> client = Client("runs/digits/deployment")                     # doctest: +SKIP
>>> request = client.encrypt(client.quantize(image))              # doctest: +SKIP
>>> answer = server.run(request, client.evaluation_keys())        # doctest: +SKIP
>>> client.dequantize(client.decrypt(answer))["logits"].argmax()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.fhe_compile.deployment.deployment import load_interface
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.ports import (
    check_ports,
    check_shape,
    dequantize_array,
    named_inputs,
    quantize_array,
)
from torusformer.serving.messages import decode, pack, unpack


class Client:
    """Keys, encryption and decryption for one deployment. Never sees the circuit."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.interface = load_interface(folder, "client.zip")
        self._inner = fhe.Client.load(folder / "client.zip")

    @property
    def labels(self) -> Mapping[str, str]:
        """What the program's author wrote down: task, labels, preset."""
        return self.interface.metadata

    def keygen(self, force: bool = False) -> None:
        """Make the secret and evaluation keys; once, unless `force`."""
        self._inner.keygen(force=force)

    def evaluation_keys(self) -> bytes:
        """What the server needs to compute on ciphertexts; it cannot decrypt with them."""
        keys = self._inner.evaluation_keys.serialize()
        return pack("evaluation keys", self.interface.circuit_id, [keys])

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
        reps = [e.encode(checked[e.port.name]) for e in self.interface.inputs]
        values = self._inner.encrypt(*reps)
        values = values if isinstance(values, tuple) else (values,)
        parts = [value.serialize() for value in values]
        return pack("inputs", self.interface.circuit_id, parts)

    def decrypt(self, answer: bytes) -> dict[str, IntArray]:
        """The server's answer to program integers, by output name."""
        parts = unpack("outputs", self.interface.circuit_id, answer)
        values = [decode("outputs", fhe.Value.deserialize, part) for part in parts]
        results = self._inner.decrypt(*values)
        results = results if isinstance(results, tuple) else (results,)
        ports = self.interface.outputs  # behind them, perhaps, inputs that nothing reads
        return {e.port.name: e.decode(np.asarray(r)) for e, r in zip(ports, results, strict=False)}

    def dequantize(self, outputs: Mapping[str, IntArray]) -> dict[str, NDArray[np.float64]]:
        """scale * (integer - zero_point) of every output."""
        ports = (encoded.port for encoded in self.interface.outputs)
        return {port.name: dequantize_array(port, outputs[port.name]) for port in ports}
