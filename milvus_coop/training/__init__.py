"""Training of the models that ship with the package. Needs the `train` extra (PyTorch, ONNX)."""
