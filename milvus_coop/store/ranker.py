"""Model rankers: with one, Milvus calls a rerank service during a search and orders the hits by the service's scores.

Support in Milvus, from its documentation and sources (https://milvus.io/docs/model-ranker-overview.md and, in milvus-io/milvus,
internal/util/function/rerank and internal/util/function/models):

- Milvus Lite supports only the provider `cohere`, with `base_url` and a key. It posts to `<base_url>/rerank`.
- Servers support `vllm` and `tei` with an `endpoint`. They keep its scheme, host and query, and replace its path with `/rerank`
  (the first 2.6 versions: with `/v2/rerank` for vLLM). They send no model name. Keys are in milvus.yaml, under a credential's name.
- Servers also support `cohere`, but read its address only from milvus.yaml (`function.rerank.model.providers.cohere.url`).
- Servers before 2.6 silently ignore a ranker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import quote, urlencode, urlsplit

from pymilvus import Function, FunctionType

from milvus_coop.arguments import one_of, string, whole_number
from milvus_coop.errors import InvalidArgumentError, StoreError, quoted

Ranker: TypeAlias = Function
"""The type of the argument `ranker` of `MilvusClient.search`."""
Provider = Literal["cohere", "vllm", "tei"]

NAME = "milvus_coop"
NO_KEY = "none"
"""A placeholder for the key: Milvus Lite requires one even if the service does not."""
BATCH_SIZE = 1000
"""Number of documents per request of a server. With its own default, 32, the query would be encoded again for each 32 documents."""
MAX_BATCH_SIZE = 16_384
MIN_VERSIONS = {"milvus_lite": (3, 0), "server": (2, 6)}
"""The first versions that support model rankers."""

_END = re.compile(r"(/v[12])?(/rerank)?/*$")


@dataclass(frozen=True, slots=True)
class RerankService:
    """The address of a rerank service, and how Milvus calls it."""

    endpoint: str
    """http(s)://host:port of the service, as Milvus reaches it. A path below which the service is reached may follow; the end of a
    rerank address, such as `/v2` or `/v2/rerank`, is cut off, because Milvus or `build_ranker` adds it."""
    model: str
    """Model name. The service uses it to check that it runs the collection's bundle."""
    api_key: str = ""
    """The service's key; for Milvus Lite only."""
    credential: str = ""
    """Name of the key in a server's milvus.yaml."""
    provider: Provider | None = None
    """Protocol; None means `cohere` on Milvus Lite and `vllm` on a server."""
    batch_size: int = BATCH_SIZE
    """Number of documents per request; for servers only."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidArgumentError: a value has the wrong type or is out of range.
        """
        endpoint = _END.sub("", string("endpoint", self.endpoint).strip())
        try:
            parts = urlsplit(endpoint)
        except ValueError:  # such as http://[
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise InvalidArgumentError(
                f"the endpoint is {quoted(self.endpoint)}",
                expected="where Milvus reaches milvus-coop serve, such as http://gateway:8080",
            )
        object.__setattr__(self, "endpoint", endpoint)
        string("api_key", self.api_key)
        string("credential", self.credential)
        if self.provider is not None:
            one_of("provider", self.provider, get_args(Provider))
        object.__setattr__(self, "batch_size", whole_number("batch_size", self.batch_size, 1, MAX_BATCH_SIZE))


def build_ranker(service: RerankService, query: str, field: str, *, version: str, collection: str = "") -> Ranker:
    """A ranker for searches of one query.

    Args:
        service: the service to call.
        query: the query that the service gets with the documents.
        field: the field whose values are the documents.
        version: the version that Milvus reports: `milvus_lite-3.2.2`, `2.6.4`, `v3.0.1`, ...
        collection: name of the collection whose token files the service has to read; '' if the rows hold the tokens themselves.

    Raises:
        InvalidArgumentError: this Milvus cannot call the service in this way.
        StoreError: this Milvus has no model rankers.
    """
    is_lite = check_version(version)
    provider = service.provider or ("cohere" if is_lite else "vllm")
    params = _of_lite(service, provider, collection) if is_lite else _of_server(service, provider, collection)
    ranker: Ranker = Function(
        name=NAME,
        function_type=FunctionType.RERANK,
        input_field_names=[field],
        params={"reranker": "model", "provider": provider, "queries": [query], **params},
    )
    return ranker


def check_version(version: str) -> bool:
    """Check that this Milvus has model rankers.

    Returns:
        True for Milvus Lite, False for a server.

    Raises:
        StoreError: it has no model rankers. A server would then ignore the ranker and answer in the order of the vectors.
    """
    is_lite = version.startswith("milvus_lite")
    minimum = MIN_VERSIONS["milvus_lite" if is_lite else "server"]
    found = re.search(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < minimum:
        product = "Milvus Lite" if is_lite else "the Milvus server"
        raise StoreError(
            f"{product} is version {version}, which has no model rankers and would ignore this one",
            expected=f"{minimum[0]}.{minimum[1]} or later",
            run="CoopSearch.query(), which reranks in the client on any version",
        )
    return is_lite


def _of_lite(service: RerankService, provider: Provider, collection: str) -> dict[str, Any]:
    if provider != "cohere":
        raise InvalidArgumentError(f"Milvus Lite cannot call a rerank service by the protocol {provider}", expected="cohere")
    if service.credential:
        raise InvalidArgumentError("Milvus Lite has no credentials by name", expected="api_key, and no credential")
    below = f"/collections/{quote(collection, safe='')}" if collection else ""
    return {
        "model_name": service.model,
        "base_url": f"{service.endpoint}{below}/v2",
        "api_key": service.api_key or NO_KEY,
    }


def _of_server(service: RerankService, provider: Provider, collection: str) -> dict[str, Any]:
    if service.api_key:
        raise InvalidArgumentError(
            "a Milvus server takes no key with a search",
            expected="credential= with the name of a key in its milvus.yaml (`credential:`), and no api_key",
        )
    params: dict[str, Any] = {"max_client_batch_size": service.batch_size}
    if service.credential:
        params["credential"] = service.credential
    if provider == "cohere":  # the address is in milvus.yaml
        if collection:
            raise InvalidArgumentError(
                f"the image tokens of '{collection}' are files, and Cohere's protocol does not name the collection of the rows",
                expected="vllm or tei",
            )
        return params | {"model_name": service.model}
    if urlsplit(service.endpoint).path.strip("/"):
        raise InvalidArgumentError(
            f"the endpoint is {quoted(service.endpoint)}, and a Milvus server would drop its path",
            expected="http(s)://host:port alone",
        )
    asked = {"model": service.model} | ({"collection": collection} if collection else {})
    return params | {"endpoint": f"{service.endpoint}?{urlencode(asked, safe='@')}"}
