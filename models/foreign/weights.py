"""A foreign checkpoint folder in, its tensors out by name: each at the shape that is expected.

Read are `model.safetensors`, or its shards by `model.safetensors.index.json`, or the same of
`pytorch_model.bin`. Shapes are known before a byte of a tensor is; nothing is read twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from torusformer import ArtifactError
from torusformer.models.foreign.pickled import to_safetensors
from torusformer.models.foreign.safetensors_gate import Declared, declared_tensors
from torusformer.strict_json import read_json

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
# As libraries of before 2019 called a norm's gain and shift.
_RENAMED = ((re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
            (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"))  # fmt: skip


class Weights:
    """Tensors of one checkpoint by name, less the `prefix` that some have and some have not."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        """Reads headers; `scratch` is a folder for what pickled files become."""
        self.folder = folder
        self._files: dict[str, tuple[Path, str]] = {}  # name -> file, name there
        self._declared: dict[str, Declared] = {}
        self._taken: set[str] = set()
        self.prefix = ""
        files = weight_files(folder)
        if files[0].suffix == ".bin":
            written = [scratch / f"{file.name}.safetensors" for file in files]
            to_safetensors(dict(zip(files, written, strict=True)))
            files = tuple(written)
        for path in files:
            for inside, declared in declared_tensors(path).items():
                name = inside
                for pattern, new in _RENAMED:
                    name = pattern.sub(new, name)
                if name in self._declared:
                    raise ArtifactError(f"{folder}: tensor {name} is there twice; keep one of them")
                self._files[name], self._declared[name] = (path, inside), declared

    def __contains__(self, name: str) -> bool:
        return self._full(name) in self._declared

    def find_prefix(self, prefix: str, anchor: str) -> None:
        """See whether tensors are called with the `prefix`, by one that any checkpoint has."""
        if anchor not in self._declared and prefix + anchor in self._declared:
            self.prefix = prefix

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor of that shape in single precision.

        Raises:
            ArtifactError: it is missing, of another shape, no real numbers, or not finite.
        """
        full = self._full(name)
        if full not in self._declared:
            raise ArtifactError(
                f"{self.folder}: tensor {full} is missing; config.json asks for it with shape"
                f" {shape}"
            )
        declared = self._declared[full]
        if declared.shape != shape:
            raise ArtifactError(
                f"{self.folder}: tensor {full} has shape {declared.shape}, config.json asks for"
                f" {shape}; the two do not belong together"
            )
        if declared.dtype not in ("F64", "F32", "F16", "BF16"):
            raise ArtifactError(
                f"{self.folder}: tensor {full} is of dtype {declared.dtype}; only floating point"
                " is read, quantized checkpoints are not"
            )
        self._taken.add(full)
        path, inside = self._files[full]
        try:
            with safe_open(str(path), framework="pt") as file:
                tensor: Tensor = file.get_tensor(inside).to(torch.float32)
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtifactError(f"{path}: {full} cannot be read ({error}); get it again") from None
        if not tensor.isfinite().all():
            raise ArtifactError(f"{path}: {full} holds NaN or infinity; get it again")
        return tensor

    def leave(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """Names of tensors that match a pattern whole, in order; they are not asked for again."""
        wanted = [re.compile(pattern) for pattern in patterns]
        found = tuple(
            n
            for n in self._declared
            if n not in self._taken and any(p.fullmatch(self._short(n)) for p in wanted)
        )
        self._taken |= set(found)
        return found  # fmt: skip

    def require_all_taken(self) -> None:
        """Refuse a tensor that nothing asked for: it would be part of the model and ignored."""
        left = [name for name in self._declared if name not in self._taken]
        if left:
            more = f", and {len(left) - 1} more" if len(left) > 1 else ""
            raise ArtifactError(
                f"{self.folder}: tensor {left[0][:120]} is unexpected{more}: config.json asks for"
                " no such tensor, so the two do not belong together"
            )

    def _full(self, name: str) -> str:
        return name if name in self._declared else self.prefix + name

    def _short(self, name: str) -> str:
        return name.removeprefix(self.prefix)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the tensors, safetensors before pickled ones.

    Raises:
        ArtifactError: there are none, or the index names others than it has.
    """
    for whole in (SAFE, PICKLED):
        if (folder / whole).is_file():
            return (folder / whole,)
        index = folder / f"{whole}.index.json"
        if index.is_file():
            return _shards(index, Path(whole).suffix)
    raise ArtifactError(
        f"{folder} holds neither {SAFE} nor {PICKLED}; point at the folder of a checkpoint"
    )


def _shards(index: Path, suffix: str) -> tuple[Path, ...]:
    try:
        found = read_json(index)
        places = found["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{index} is no index of shards ({error}); get it again") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != suffix:
            raise ArtifactError(f"{index} names {str(name)[:60]!r}, which is no file beside it")
        if not (index.parent / name).is_file():
            raise ArtifactError(f"{index.parent / name} is missing; {index.name} names it")
    if not names:
        raise ArtifactError(f"{index} names no file; get it again")
    return tuple(index.parent / name for name in names)
