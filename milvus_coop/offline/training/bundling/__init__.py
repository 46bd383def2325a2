"""Export of trained networks to a bundle. Its graphs share one weights file. They are compared with PyTorch before the export."""
