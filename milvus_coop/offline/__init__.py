"""Work that is done before a search: data sets, training, conversion, export and evaluation.

Belongs here: what needs the extra `train` or `eval`. Nothing online and nothing that serves imports it.
"""
