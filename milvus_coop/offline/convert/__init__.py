"""Pretrained checkpoints become bundles. Needs the `train` extra (PyTorch, transformers, ONNX); what comes out does not."""
