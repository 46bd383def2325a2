"""The trainable networks: a vision backbone, image tokens, and one transformer for texts, images and pairs."""
