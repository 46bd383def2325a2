"""The HTTP service, `milvus-coop serve`: search, uploads, thumbnails, rerank protocols for Milvus itself, and the gallery.

It needs `pip install 'milvus-coop[serve]'`. It may import the base, the online packages, `gallery`
and `plans`, but not `offline` and `cli`.

app       the application                           serve      runs it
front     the steps around every route              routes     the routes of the API
access    API keys, Host and Origin                 options    the options of the service
rerank    the rerank protocols                      openai     OpenAI's routes
service   the state that all requests share         searchers  the collections that are open
pool      threads for blocking work                 bodies     request bodies, within limits
schemas   requests and answers                      problems   errors as answers
uploads, thumbnails, embeddings, data_uris          the work of their routes
facts     the facts about one request               logs, metrics, tracing   where they are reported
addresses hides addresses in errors                 connections  closes idle connections
prefix    removes a proxy's path prefix             key_filters  what each key may read
"""
