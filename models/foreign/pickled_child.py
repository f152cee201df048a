"""The process that may die: files that torch wrote in, safetensors files out.

A script of its own, which `pickled.py` starts; it imports nothing of ours. Its arguments are
pairs of files to read and to write. What is wrong is one line on stderr and exit code 1.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch
from safetensors.torch import save

_ROOM = 1 << 30  # bytes beside the file's own
_TIMES = 4  # of the file: as it is read, as tensors, as bytes to write


def bound_memory(size: int) -> None:
    """Let this process have a few times the bytes that it reads, and no core on the disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + _ROOM + _TIMES * size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def convert(source: Path, target: Path) -> None:
    """Read one, write the other."""
    size = source.stat().st_size
    found = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise ValueError("it is no table of tensors")
    total = 0
    for name, tensor in found.items():
        if not isinstance(name, str) or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise ValueError(f"{str(name)[:60]!r} is no named tensor")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{name[:60]!r} is no dense tensor")
        total += tensor.numel() * tensor.element_size()
    # Several names may share one storage, so may tensors that are larger than it.
    if total > _TIMES * size:
        raise ValueError(f"its tensors take {total:,} bytes and the file {size:,}")
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}
    target.write_bytes(save(tensors))


if __name__ == "__main__":
    files = [Path(name) for name in sys.argv[1:]]
    try:
        bound_memory(max(path.stat().st_size for path in files[::2]))
        for one, other in zip(files[::2], files[1::2], strict=True):
            convert(one, other)
    except Exception as error:  # whatever torch makes of foreign bytes
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}", file=sys.stderr)
        raise SystemExit(1) from None
