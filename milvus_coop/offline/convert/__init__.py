"""Conversion of pretrained checkpoints to bundles. It needs the `train` extra (PyTorch, transformers, ONNX); the bundles do not."""
