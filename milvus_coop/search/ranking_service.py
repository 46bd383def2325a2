"""The query that Milvus sends to a rerank service: a text or an image as one string."""

from __future__ import annotations

from typing import get_args

from milvus_coop.arguments import one_of
from milvus_coop.bundle.spec import Score
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.preprocess.images import ImageInput
from milvus_coop.models.preprocess.texts import check_text
from milvus_coop.models.tokens import pack
from milvus_coop.types import Kind

IN_CLIENT = "CoopSearch.query(), which reranks in the client"


def query_string(encoder: Encoder, kind: Kind, text: str | None, image: ImageInput | None, score: Score, timeout_s: float) -> str:
    """The query as a string: the text itself, or the base64 tokens of the image.

    Raises:
        InvalidArgumentError: neither or both are given, the query has the same kind as the items, the text is blank, or a service
            cannot rerank with this bundle or score.
        ImageError: the image cannot be read.
        BackendError: the backend failed.
    """
    spec = encoder.spec
    one_of("score", score, get_args(Score))
    if (text is None) == (image is None):
        raise InvalidArgumentError("the query has neither a text nor an image, or both", expected="one of them")
    if spec.tokens.keep == "nowhere":
        raise InvalidArgumentError(
            f"bundle {spec.label} keeps no image tokens, and a rerank service opens no images",
            expected="a bundle that keeps tokens in the collection or in a token store",
            run=IN_CLIENT,
        )
    if score != "ce":
        raise InvalidArgumentError(
            "Milvus does not send the cosine to a rerank service, which therefore cannot rank by the sum of logit and cosine",
            expected='score="ce"',
            run=IN_CLIENT,
        )
    asked: Kind = "image" if text is None else "text"
    if asked == kind:
        raise InvalidArgumentError(
            f"the query and the items are both {kind}s; the cross-encoder compares a text with an image",
            expected="a text for a collection of images, image= for a collection of texts",
        )
    if image is None:
        check_text(text or "")
        return text or ""
    encoded = encoder.encode_images([encoder.decode(image)], timeout_s=timeout_s)
    return pack(encoded.tokens, encoded.scales)[0]
