"""The vocabulary of an integer program in one import: ports, every operator, the program itself."""

from torusformer.fhe_compile.program.operators.base import OPERATORS, Node
from torusformer.fhe_compile.program.operators.comparisons import ArgMax, Max
from torusformer.fhe_compile.program.operators.linear import (
    Add,
    AddConst,
    Linear,
    Scale,
    Sub,
    Sum,
)
from torusformer.fhe_compile.program.operators.moves import (
    Broadcast,
    Concat,
    Constant,
    Reshape,
    Slice,
    Transpose,
)
from torusformer.fhe_compile.program.operators.products import MatMul, Mul
from torusformer.fhe_compile.program.operators.tables import Round, Table
from torusformer.fhe_compile.program.port import IntArray, Port
from torusformer.fhe_compile.program.program import Program

__all__ = [
    "OPERATORS", "Add", "AddConst", "ArgMax", "Broadcast", "Concat", "Constant", "IntArray",
    "Linear", "MatMul", "Max", "Mul", "Node", "Port", "Program", "Reshape", "Round", "Scale",
    "Slice", "Sub", "Sum", "Table", "Transpose",
]  # fmt: skip
