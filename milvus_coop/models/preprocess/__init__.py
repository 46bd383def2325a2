"""From pictures and texts to the arrays that a bundle's graphs read."""
