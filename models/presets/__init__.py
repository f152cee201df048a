"""A preset's name in, its settings out: one JSON file each, of model, bit widths and training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

from torusformer import InputError

Part = Literal["model", "quant", "training"]


def preset_names() -> tuple[str, ...]:
    """Every preset, in alphabetical order."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(f.name.removesuffix(".json") for f in files if f.name.endswith(".json")))


def preset_lengths(name: str) -> tuple[int, ...]:
    """The lengths of texts that a preset's model is compiled for; none for one length."""
    return tuple(_read(name).get("lengths", ()))


def preset(name: str, part: Part) -> Mapping[str, Any]:
    """One part of a preset, plain values; InputError where there is no preset of that name."""
    settings: Mapping[str, Any] = _read(name)[part]
    return settings


def _read(name: str) -> Mapping[str, Any]:
    if name not in preset_names():
        raise InputError(f"no preset named {name!r}; choose one of {', '.join(preset_names())}")
    text = (resources.files(__name__) / f"{name}.json").read_text(encoding="utf-8")
    settings: Mapping[str, Any] = json.loads(text)
    return settings
