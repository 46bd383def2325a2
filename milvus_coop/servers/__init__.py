"""Requests to servers that somebody else runs. All is limited in size and time.

http     one HTTP request                  address  the address and the key of a model server
posting  requests to a model server        parts    texts and images in such requests
"""
