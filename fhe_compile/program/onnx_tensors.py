"""An ONNX tensor from outside in; refused before it is read unless it holds what it declares."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper

MAX_RANK = 8
# data type -> the field that holds its numbers, unless they are raw
_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.UINT32: "uint64_data",
    **dict.fromkeys(
        (
            TensorProto.BOOL,
            TensorProto.INT8,
            TensorProto.UINT8,
            TensorProto.INT16,
            TensorProto.UINT16,
            TensorProto.INT32,
            TensorProto.FLOAT16,
        ),
        "int32_data",
    ),
}
_DATA = ("raw_data", "string_data", *sorted(set(_FIELDS.values())))


def check_tensor(tensor: onnx.TensorProto) -> None:
    """A ValueError for a tensor whose data are elsewhere, of no number, too few or too many."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ValueError("it keeps its numbers in another file; save it with them inside")
    if tensor.data_type not in _FIELDS or tensor.HasField("segment"):
        raise ValueError(f"its data type {tensor.data_type} is none of whole or real numbers")
    count = count_of(tuple(tensor.dims))
    full = [field for field in _DATA if len(getattr(tensor, field))]
    if not full and count == 0:
        return
    if len(full) != 1 or full[0] not in ("raw_data", _FIELDS[tensor.data_type]):
        raise ValueError(
            f"{count:,} numbers are declared and it holds {' and '.join(full) or 'none'}"
        )
    found = len(getattr(tensor, full[0]))
    if full[0] == "raw_data":
        count *= np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    if found != count:
        unit = "bytes" if full[0] == "raw_data" else "numbers"
        raise ValueError(f"{count:,} {unit} are declared and it holds {found:,}")


def count_of(sizes: tuple[int, ...]) -> int:
    """How many numbers a declared shape has; a ValueError for negative sizes or too many axes."""
    if len(sizes) > MAX_RANK:
        raise ValueError(f"{len(sizes)} axes, the limit is {MAX_RANK}")
    if any(size < 0 for size in sizes):
        raise ValueError(f"a negative size in {list(sizes)}")
    return math.prod(sizes)
