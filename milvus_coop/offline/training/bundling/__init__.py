"""Trained networks become a bundle: graphs in one shared weights file, compared with PyTorch before anything is written."""
