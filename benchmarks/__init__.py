"""Measurements of speed and quality, each a program with its figures in docs/. This folder is not part of the wheel."""
