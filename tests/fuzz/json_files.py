"""Mutated JSON beside artefacts and in them: read as their commands read it, and then used."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.case import Case
from tests.fuzz.programs import mutate_json, spoil_text
from tests.programs import Builder, classifier
from torusformer.fhe_compile import Port, Program
from torusformer.fhe_compile.decoding.decoder import (
    INDEX,
    DecoderProgram,
    load_decoder,
    save_decoder,
)
from torusformer.fhe_compile.decoding.picking import WINDOW_KEY, Window, window_to_json
from torusformer.fhe_compile.prices.timings import _shipped, read_timings
from torusformer.fhe_compile.program.nodes import Linear
from torusformer.folders import require_free
from torusformer.models.checkpoint import read_settings
from torusformer.pipelines.answers import InProcess
from torusformer.pipelines.settings import Settings
from torusformer.versions import FILE, installed_versions, read_versions, write_versions


def make(seed: int, folder: Path) -> Case:
    """One of the files, some value of it another, or no JSON any more."""
    rng = random.Random(seed)
    about, build = rng.choice(tuple(_FILES.items()))
    path, use = build(folder)
    text = path.read_text()
    if rng.random() < 0.7:
        value = json.loads(text)
        mutate_json(value, rng)
        text = json.dumps(value)
    if rng.random() < 0.4:
        text = spoil_text(text, rng)
    data = bytearray(text.encode())
    if rng.random() < 0.1 and data:
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    return Case(about, use)


Use = Callable[[], Any]


def _versions(folder: Path) -> tuple[Path, Use]:
    write_versions(folder, "deployment")
    return folder / FILE, lambda: read_versions(folder, "deployment")


def _out(folder: Path) -> tuple[Path, Use]:
    write_versions(folder, "run")
    return folder / FILE, lambda: require_free(folder, "run")


def _config(folder: Path) -> tuple[Path, Use]:
    settings = {"kind": "torusformer.transformer", "version": "0.1.0", "model": {"dim": 8}}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder / "config.json", lambda: read_settings(folder)


def _settings(folder: Path) -> tuple[Path, Use]:
    Settings.from_name("tiny").save(folder / "tiny.json")
    return folder / "tiny.json", lambda: Settings.load(folder / "tiny.json")


def _prices(folder: Path) -> tuple[Path, Use]:
    path = folder / "prices.json"
    path.write_text(json.dumps(_shipped().to_json()))
    return path, lambda: max(map(read_timings(path).ms, _shipped().measured))


def _labels(folder: Path) -> tuple[Path, Use]:
    (folder / "labels.json").write_text('["a", "b", "c"]')
    program = classifier()

    def use() -> None:
        text = (folder / "labels.json").read_text(errors="replace")
        InProcess(program.replace(metadata={"labels": text})).answer({"x": np.array([[1, 2]])})

    return folder / "labels.json", use


def _decoder(folder: Path) -> tuple[Path, Use]:
    target = folder / "decoder"
    save_decoder(_steps(), target)

    def use() -> None:
        found = load_decoder(target).with_picking()
        _ = found.labels, found.window, [program.ranges for program in found.functions.values()]

    return target / INDEX, use


@cache
def _steps() -> DecoderProgram:
    metadata = {"labels": '["a", "b", "c"]', WINDOW_KEY: window_to_json(Window(-4, 0, 8))}
    return DecoderProgram((_step(metadata),), metadata)


def _step(metadata: dict[str, str]) -> Program:
    b = Builder(Port("token", (1, 3), 0, 1, one_hot=True))
    b.add(Linear("logits", "head", ("token",), np.array([[1, -1, 2], [0, 1, 1], [2, 2, -2]])))
    return b.program("logits").replace(metadata=metadata)


_FILES: dict[str, Callable[[Path], tuple[Path, Use]]] = {
    "versions.json": _versions,
    "versions.json of --out": _out,
    "config.json": _config,
    "a configuration to train": _settings,
    "a price list": _prices,
    "labels": _labels,
    "decoder.json": _decoder,
}
assert installed_versions()  # what is slow to find out, before processes are forked
