"""QONNX graph in; exact integer program, its cost, and its TFHE circuit out."""

from fhe_compile.circuit import Circuit, compile_program
from fhe_compile.concrete_options import CompileError
from fhe_compile.deployment import save_deployment
from fhe_compile.interpret import interpret
from fhe_compile.lowering import lower
from fhe_compile.onnx_io import load_program, save_program
from fhe_compile.plan import Plan, plan
from fhe_compile.program import Port, Program

__all__ = [
    "Circuit",
    "CompileError",
    "Plan",
    "Port",
    "Program",
    "compile_program",
    "interpret",
    "load_program",
    "lower",
    "plan",
    "save_deployment",
    "save_program",
]
