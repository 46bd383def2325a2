"""Training of bi-encoders, cross-encoders and joint models on captioned images. Needs the `train` extra (PyTorch, ONNX)."""
