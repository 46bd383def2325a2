"""Files and answers elsewhere: on other machines, and wherever a row says. All is limited in size and time.

http     one HTTP request                  server      the address and the key of a model server
posting  requests to a model server        parts       texts and images in such requests
objects  files in object stores (fsspec)   roots       what uris of rows may name
outages  errors that may pass              thumbnails  small versions of the images below roots
"""
