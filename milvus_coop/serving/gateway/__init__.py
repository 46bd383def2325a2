"""The HTTP service, `milvus-coop serve`: search, uploads, thumbnails, rerank protocols for Milvus itself, and the gallery.

It needs `pip install 'milvus-coop[serve]'`.
"""
