"""QONNX graph in; exact integer program, its cost, and its TFHE circuit out."""

from torusformer.fhe_compile.circuit.circuit import Circuit, compile_plan, compile_program
from torusformer.fhe_compile.circuit.concrete_options import CompileError
from torusformer.fhe_compile.deployment.deployment import save_deployment
from torusformer.fhe_compile.frontend.examine import examine
from torusformer.fhe_compile.frontend.lowering import lower
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Port, Program
from torusformer.fhe_compile.program.onnx_io import load_program, save_program
from torusformer.fhe_compile.tfhe.narrowing import narrow
from torusformer.fhe_compile.tfhe.plan import Plan, plan

__all__ = [
    "Circuit",
    "CompileError",
    "Plan",
    "Port",
    "Program",
    "compile_plan",
    "compile_program",
    "examine",
    "interpret",
    "load_program",
    "lower",
    "narrow",
    "plan",
    "save_deployment",
    "save_program",
]
