"""Keys and inputs of one client, changed and sealed again, against a server that has two.

    python -m tests.fuzz.mutants 2000

The other client's answer has to stay right, the server alive, and its memory flat.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tests.programs import classifier
from torusformer import TorusformerError
from torusformer.fhe_compile import compile_program, interpret, save_deployment
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.serving import Client, Server
from torusformer.serving.messages import pack, unpack
from torusformer.serving.server import EvaluationKeys

_INTERESTING = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def _flip(data: bytearray, rng: np.random.Generator, within: int) -> None:
    data[rng.integers(min(within, len(data)))] ^= 1 << int(rng.integers(8))


def _word(data: bytearray, rng: np.random.Generator, within: int) -> None:
    at = 8 * int(rng.integers(min(within, len(data)) // 8))
    struct.pack_into("<Q", data, at, _INTERESTING[rng.integers(len(_INTERESTING))])


def _half(data: bytearray, rng: np.random.Generator, within: int) -> None:
    at = 4 * int(rng.integers(min(within, len(data)) // 4))
    struct.pack_into("<I", data, at, int(rng.integers(2**32)))


def _swap(data: bytearray, rng: np.random.Generator, within: int) -> None:
    a, b = (8 * int(n) for n in rng.integers(min(within, len(data)) // 8, size=2))
    data[a : a + 8], data[b : b + 8] = data[b : b + 8], data[a : a + 8]


_FIELDS = (_flip, _word, _half, _swap)


def mutated(part: bytes, rng: np.random.Generator) -> bytes:
    """Its description changed, its numbers, its length, or all of it."""
    data, kind = bytearray(part), int(rng.integers(10))
    if kind < 6:  # the description stands first, and of a ciphertext last
        for _ in range(int(rng.integers(1, 4))):
            _FIELDS[rng.integers(len(_FIELDS))](data, rng, 512)
    elif kind == 6:
        for _ in range(int(rng.integers(1, 64))):
            _flip(data, rng, len(data))
    elif kind == 7:
        data = data[: int(rng.integers(len(data)))]
    elif kind == 8:
        data += bytes(8 * int(rng.integers(1, 9)))
    else:
        _FIELDS[rng.integers(1, len(_FIELDS))](data, rng, len(data))
    return bytes(data)


def mutant(message: bytes, kind: str, circuit: str, rng: np.random.Generator) -> bytes:
    """With one part changed, dropped or twice; the digest is right."""
    what = "evaluation keys" if kind == "keys" else "inputs"
    parts = unpack(what, circuit, message)
    i = int(rng.integers(len(parts)))
    choice = int(rng.integers(20))
    if choice == 0:
        parts = parts + parts[:1]
    elif choice == 1:
        parts.pop(i)
    else:
        parts[i] = mutated(parts[i], rng)
    return pack(what, circuit, parts)


def attack(
    server: Server,
    client: Client,
    q_x: Mapping[str, IntArray],
    kind: str,
    count: int,
    seed: int,
    watch: Callable[[int], None] = lambda done: None,
) -> Counter[str]:
    """What became of so many mutants: how often which error, or an answer."""
    rng, outcomes = np.random.default_rng(seed), Counter[str]()
    circuit, keys = server.interface.circuit_id, client.evaluation_keys()
    request = client.encrypt(q_x)
    loaded: EvaluationKeys | None = None
    for i in range(count):
        changed = mutant(keys if kind == "keys" else request, kind, circuit, rng)
        try:
            if kind == "keys":
                server.run(request, changed)
            else:
                loaded = loaded or server.load_keys(keys)
                server.run(changed, loaded)
            outcomes["answered"] += 1
        except TorusformerError as error:
            died = loaded is not None and loaded.process.inner.poll() is not None
            outcomes["died" if died else type(error).__name__] += 1
            loaded = None if died else loaded
        watch(i)
    return outcomes


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Attack, with the other client's answer compared every so often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    program, q_x = classifier(), {"x": np.array([[3, 5]])}
    expected = interpret(program, q_x)["logits"]
    with tempfile.TemporaryDirectory() as place:
        save_deployment(compile_program(program), Path(place) / "d")
        attacker, other = Client(Path(place) / "d"), Client(Path(place) / "d")
        with Server(Path(place) / "d") as server:
            living, right, memory = server.load_keys(other.evaluation_keys()), 0, []

            def watch(done: int) -> None:
                nonlocal right
                if done % 20 == 19:
                    answer = other.decrypt(server.run(other.encrypt(q_x), living))
                    assert np.array_equal(answer["logits"], expected), "the other client's answer"
                    right += 1
                    memory.append(resident())

            start = time.monotonic()
            for kind in ("keys", "inputs"):
                outcomes = attack(server, attacker, q_x, kind, args.count // 2, args.seed, watch)
                print(kind, dict(outcomes))
    print(f"{right} answers of the other client right, {time.monotonic() - start:.0f} s")
    quarter = max(1, len(memory) // 4)
    print(
        f"MiB: {np.mean(memory[:quarter]):.0f} at first, {np.mean(memory[-quarter:]):.0f} at last"
    )


if __name__ == "__main__":
    main()
