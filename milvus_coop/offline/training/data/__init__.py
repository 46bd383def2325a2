"""From a data set to batches: token ids, what the network sees of each image, and who is in which batch."""
