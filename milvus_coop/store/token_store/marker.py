"""`token_store.json`, the marker of a folder of token files: it names the collection that owns them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from milvus_coop.errors import TokenStoreError

MARKER = "token_store.json"
FORMAT = 1
"""Version of the marker and of the files beside it."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The collection that owns the token files of a folder."""

    collection: str
    bundle: str
    """`name version` of the bundle."""
    fingerprint: str
    id: str
    """Unique id of the collection across all servers, in hex digits. The header of the collection has it too."""

    def to_json(self) -> str:
        """The text of the marker."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"


def read_owner(text: bytes, label: str) -> Owner:
    """Read the text of a marker.

    Raises:
        TokenStoreError: the marker is damaged or has another format. The message names its folder, `label`.
    """
    try:
        content = json.loads(text)
        version = content.pop("format")
        owner = Owner(**content) if version == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise TokenStoreError(f"{label}/{MARKER} is damaged", expected="what milvus-coop wrote") from exc
    if owner is None:
        raise TokenStoreError(f"{label} has format {version}", expected=f"format {FORMAT}", run="pip install -U milvus-coop")
    return owner


def check_owner(found: Owner, expected: Owner, label: str) -> None:
    """Compare the owner of a folder with the expected one.

    Raises:
        TokenStoreError: the tokens belong to another collection, or were made with another bundle.
    """
    if found.fingerprint != expected.fingerprint:
        raise TokenStoreError(
            f"the tokens in {label} were made with bundle {found.bundle} ({found.fingerprint[:8]})",
            expected=f"those of {expected.bundle} ({expected.fingerprint[:8]})",
            run="another --token-store",
        )
    if found != expected:
        raise TokenStoreError(
            f"{label} holds the tokens of another collection '{found.collection}' ({found.id[:8]})",
            expected=f"those of '{expected.collection}' ({expected.id[:8]})",
            run="another --token-store",
        )
