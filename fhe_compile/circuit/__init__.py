"""Tensor operations in, a circuit of Concrete's out: compiled, run, measured."""
