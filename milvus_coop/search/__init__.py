"""Coop search: retrieve with the bi-encoder, rerank with the cross-encoder.

coop       `CoopSearch`, the object that most users need
options    `QueryOptions`, checked             queries          texts and images of queries, encoded
reranking  cross-encoder scores, in time       ranking          from scores to ranks
remote     scores of a rerank server           groups           many queries, a group at a time
state      the parts of an answer so far       workers          threads for calls with a deadline
contents   the cross-encoder's inputs of rows  images           images that are opened again at their uri
ranking_service                                the query string that Milvus sends to a rerank service
"""

from __future__ import annotations

from milvus_coop.search.coop import CoopSearch
from milvus_coop.search.options import QueryOptions

__all__ = ["CoopSearch", "QueryOptions"]
