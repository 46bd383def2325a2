"""Files elsewhere: in object stores, and wherever a row says. All is limited in size and time.

objects  files in object stores, through fsspec    roots       what uris of rows may name
outages  errors that may pass                      thumbnails  small versions of the images below roots
"""
