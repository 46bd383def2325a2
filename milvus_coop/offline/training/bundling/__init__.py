"""Export of trained networks to a bundle. Its graphs share a weights file and are compared with PyTorch before anything is written."""
