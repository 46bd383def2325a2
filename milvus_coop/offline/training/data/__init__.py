"""The steps from a data set to batches: token ids, pixels or features of the images, and the images of each batch."""
