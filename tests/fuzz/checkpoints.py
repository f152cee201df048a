"""Foreign checkpoints with a configuration, a header or bytes that lie: imported, or refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from tests.checkpoints import write_checkpoint
from tests.fuzz.case import Case
from tests.fuzz.programs import mutate_json, spoil_text
from torusformer.models.foreign import import_checkpoint


def make(seed: int, folder: Path) -> Case:
    """GPT-2 of four numbers a token; what is accepted gives logits for every token."""
    rng = random.Random(seed)
    path = write_checkpoint(folder) / "model.safetensors"
    about = rng.choice(("configuration", "header", "header", "bytes", "cut"))
    if about == "configuration":
        config = json.loads((folder / "config.json").read_text())
        mutate_json(config, rng)
        text = json.dumps(config)
        if rng.random() < 0.3:
            text = spoil_text(text, rng)
        (folder / "config.json").write_text(text)
    else:
        path.write_bytes(_spoiled(path.read_bytes(), about, rng))

    def use() -> None:
        model = import_checkpoint(folder).model
        with torch.no_grad():
            logits = model(torch.tensor([[0, 1]]))
        assert logits.shape[:2] == (1, 2) or not model.config.positionwise, logits.shape

    return Case(about, use)


def _spoiled(data: bytes, about: str, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    if about == "cut":
        return data[: rng.randrange(len(data))]
    if about == "bytes":
        changed = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(changed)
    header = json.loads(data[8 : 8 + length])
    mutate_json(header, rng)
    text = json.dumps(header)
    if rng.random() < 0.3:
        text = spoil_text(text, rng)
    new = text.encode(errors="replace")
    return len(new).to_bytes(8, "little") + new + data[8 + length :]
