"""Files elsewhere: in object stores, and wherever a row says. All is limited in size and time. Only this package uses fsspec.

location the address of a folder or object store   files       files below one location, read and written
objects  files in object stores that are read      roots       what uris of rows may name
outages  errors that may pass                      thumbnails  small versions of the images below roots
"""
