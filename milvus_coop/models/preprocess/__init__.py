"""Preprocessing: images and texts become the input arrays of a bundle's graphs."""
