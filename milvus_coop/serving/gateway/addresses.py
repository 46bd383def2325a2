"""Keeps the addresses of Milvus, of the models and of the reranker out of answers to clients that need a key."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from milvus_coop.config import Settings
from milvus_coop.store.address import parse_address

HIDDEN = "the configured address"
_GRPC_PEER = r"\bipv[46]:[^\s;,]+"
"""An address as gRPC writes it into its errors."""
_PLACE = re.compile(r"\b[a-z][a-z0-9+.-]+://[^\s;,'\"]*[^\s;,'\":.]", re.IGNORECASE)
"""The place of token files, which a collection's own record may name, and the address of their object store."""


def hider(settings: Settings, *, needed: bool) -> Callable[[str], str]:
    """A function that replaces the addresses in a message.

    Args:
        settings: the settings with the addresses.
        needed: False if messages may show addresses; the function then changes nothing.
    """
    if not needed:
        return lambda text: text
    address = parse_address(settings.uri, token=settings.token)
    named = {settings.uri, settings.token_store, address.label, address.endpoint, str(address.folder or "")}
    for uri in (address.endpoint, settings.models, settings.reranker.partition("?")[0]):
        if "://" in uri:
            places = urlsplit(uri).netloc.split(",")
            hosts = (place.rpartition(":")[0] for place in places)
            named |= {uri, *places, *(host for host in hosts if "." in host)}
    known = sorted(filter(None, named - {"onnx"}), key=len, reverse=True)
    pattern = re.compile("|".join([*(rf"(?<![\w-]){re.escape(text)}(?![\w-])" for text in known), _GRPC_PEER]))

    def hide(text: str) -> str:
        shown = pattern.sub(HIDDEN, text)
        return _PLACE.sub(HIDDEN, shown) if "token" in shown else shown

    return hide
