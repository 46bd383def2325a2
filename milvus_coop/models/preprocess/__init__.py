"""Preprocessing: images and texts become the input arrays of a bundle's graphs.

formats  opens and decodes image files     images      from images to pixels
texts    from texts to token ids           thumbnails  small images for people
uris     the files that uris name
"""
