"""Files and answers elsewhere: on other machines, and wherever a row says. All is limited in size and time.

http     one HTTP request                  objects     files in object stores, through fsspec
roots    what uris of rows may name        thumbnails  small versions of the images below roots
outages  errors that may pass
"""
