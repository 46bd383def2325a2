"""What is minimised: the published losses of bi-encoder and cross-encoder, and where their negatives come from."""
