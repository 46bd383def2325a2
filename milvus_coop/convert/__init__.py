"""Pretrained checkpoints of transformers to bundles."""
