"""The objectives: the published losses of bi-encoder and cross-encoder, and the sources of their negatives."""
