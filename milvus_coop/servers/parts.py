"""Texts and images as model servers take them in JSON."""

from __future__ import annotations

import base64
from typing import Any

Part = str | bytes
"""A text, or the content of a JPEG file."""
Body = dict[str, Any]

EDGE = 768
"""Maximum length of the longer edge of an image that is sent, in pixels."""


def in_base64(jpeg: bytes) -> str:
    """An image as base64."""
    return base64.b64encode(jpeg).decode()


def data_url(jpeg: bytes) -> str:
    """An image as a data URL."""
    return f"data:image/jpeg;base64,{in_base64(jpeg)}"


def image_part(jpeg: bytes) -> Body:
    """An image as a part of a chat message."""
    return {"type": "image_url", "image_url": {"url": data_url(jpeg)}}
