"""Training runs: configuration, the folder that a run leaves behind, the loop, and the score on the dev split."""
