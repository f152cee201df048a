"""QONNX graph in, integer program out."""
