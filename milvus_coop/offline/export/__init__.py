"""Conversion of PyTorch models to small ONNX graphs. Needs the `train` extra (PyTorch, ONNX)."""
