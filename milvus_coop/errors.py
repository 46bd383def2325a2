"""Every error this package raises on purpose.

    MilvusCoopError
    ├── InvalidArgumentError (ValueError)        a parameter of a call is out of range or makes no sense
    │   └── UnknownArgumentError (TypeError)     a call has no parameter of that name
    ├── MissingPackageError (ImportError)        an optional package is not installed
    ├── DeadlineExceededError (TimeoutError)     the deadline of a call came before there was any answer
    ├── BundleError
    │   ├── BundleNotFoundError (LookupError)    no bundle of that name or folder
    │   ├── BundleInvalidError (ValueError)      bundle.json or a file beside it is broken
    │   └── BundleMismatchError (ValueError)     the collection was made with another bundle
    ├── BackendError
    │   ├── BackendUnavailableError (ConnectionError)  the model server cannot be reached
    │   ├── BackendTimeoutError (TimeoutError)         it did not answer in time
    │   └── BackendInputError (ValueError)             an array has the wrong name, dtype or shape
    ├── StoreError
    │   ├── StoreUnavailableError (ConnectionError)    Milvus cannot be reached
    │   │   └── CollectionNotLoadedError               Milvus is starting, or somebody released the collection
    │   ├── StoreTimeoutError (TimeoutError)           Milvus did not answer in time
    │   ├── StoreLockedError                           another process has the Milvus Lite file open
    │   ├── StoreAuthError                             wrong user, password or token
    │   ├── TokenStoreError                            token files are missing, unreachable, or belong to another collection
    │   ├── CollectionNotFoundError (LookupError)
    │   ├── CollectionExistsError                      it exists already, or holds another kind of items
    │   ├── ForeignCollectionError (ValueError)        not made by milvus-coop, and no `fields=` given
    │   └── FilterError (ValueError)                   Milvus rejects the filter expression
    ├── ImageError (ValueError)
    │   ├── ImageUnreadableError                       missing, truncated, or not an image
    │   └── ImageTooLargeError                         more pixels than the limit
    ├── TritonError                                    a Triton server cannot be installed, started or prepared
    ├── PlanError                                      TensorRT cannot build or check a plan
    ├── SourceError (ValueError)                       an ingest source is missing, empty or malformed
    ├── DatasetError (ValueError)                      a data set to train or evaluate on is missing, empty or malformed
    ├── ConvertError                                   a checkpoint cannot be made into a bundle
    ├── TrainingError                                  a run cannot be started, resumed or exported
    └── TokensError (ValueError)                       a stored token string does not fit the bundle

A message has up to three parts: what was given, what was expected, what to run.
Errors of Pillow, ONNX Runtime, pymilvus and tritonclient are translated where they enter (`raise ... from exc`).
"""

from __future__ import annotations

import reprlib

LONGEST_QUOTE = 100
"""Maximum number of characters that a message repeats of a value."""

LONGEST_PART = 4000
"""Maximum number of characters of each part of a message, whatever it repeats."""


class MilvusCoopError(Exception):
    """Base of all errors of this package.

    Args:
        given: one sentence without a full stop that says what was given or what happened.
        expected: the value or state that would have been right.
        run: a command or call that solves the problem.
    """

    def __init__(self, given: str, *, expected: str = "", run: str = "") -> None:
        # A message with a lone surrogate, such as that of a file name in another encoding, could be neither printed nor sent.
        self.given, self.expected, self.run = (
            shortened(part, LONGEST_PART).encode(errors="backslashreplace").decode() for part in (given, expected, run)
        )
        super().__init__(self.given)

    def __str__(self) -> str:
        parts = [self.given]
        if self.expected:
            parts.append(f"expected: {self.expected}")
        if self.run:
            parts.append(f"try: {self.run}")
        return "; ".join(parts)


class InvalidArgumentError(MilvusCoopError, ValueError):
    """A parameter of a call is out of range or makes no sense."""


class UnknownArgumentError(InvalidArgumentError, TypeError):
    """A call has no parameter of that name. It is also a TypeError, which is what Python raises for an unknown keyword."""


class MissingPackageError(MilvusCoopError, ImportError):
    """An optional package is not installed."""


class DeadlineExceededError(MilvusCoopError, TimeoutError):
    """The deadline of a call came before there was any answer."""


class BundleError(MilvusCoopError):
    """Something is wrong with a bundle."""


class BundleNotFoundError(BundleError, LookupError):
    """There is no bundle of that name, or in that folder."""


class BundleInvalidError(BundleError, ValueError):
    """bundle.json or a file beside it is broken."""


class BundleMismatchError(BundleError, ValueError):
    """The collection was made with another bundle."""


class BackendError(MilvusCoopError):
    """Running a graph failed."""


class BackendUnavailableError(BackendError, ConnectionError):
    """The model server cannot be reached."""


class BackendTimeoutError(BackendError, TimeoutError):
    """The model server did not answer in time."""


class BackendInputError(BackendError, ValueError):
    """An array has the wrong name, dtype or shape."""


class StoreError(MilvusCoopError):
    """Milvus refused or failed."""


class StoreUnavailableError(StoreError, ConnectionError):
    """Milvus cannot be reached."""


class CollectionNotLoadedError(StoreUnavailableError):
    """Milvus has not loaded the collection, because it is starting or because somebody released it. Opening it loads it."""


class StoreTimeoutError(StoreError, TimeoutError):
    """Milvus did not answer in time."""


class StoreLockedError(StoreError):
    """Another process has the Milvus Lite file open."""


class StoreAuthError(StoreError):
    """The user, password or token is wrong."""


class TokenStoreError(StoreError):
    """The token files of a collection are not where they should be, belong to another collection, or cannot be reached."""


class CollectionNotFoundError(StoreError, LookupError):
    """There is no collection of that name."""


class CollectionExistsError(StoreError):
    """The collection exists already, or holds another kind of items."""


class ForeignCollectionError(StoreError, ValueError):
    """The collection was not made by milvus-coop, and its fields were not named."""


class FilterError(StoreError, ValueError):
    """Milvus rejects the filter expression."""


class ImageError(MilvusCoopError, ValueError):
    """An image cannot be used."""


class ImageUnreadableError(ImageError):
    """The image file is missing, truncated, or not an image."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit."""


class TritonError(MilvusCoopError):
    """A Triton server cannot be installed, started or prepared."""


class PlanError(MilvusCoopError):
    """TensorRT cannot build or check a plan."""


class SourceError(MilvusCoopError, ValueError):
    """An ingest source is missing, empty or malformed."""


class DatasetError(MilvusCoopError, ValueError):
    """A data set to train or evaluate on is missing, empty or malformed."""


class TrainingError(MilvusCoopError):
    """A training run cannot be started, resumed or exported."""


class ConvertError(MilvusCoopError):
    """A checkpoint cannot be made into a bundle."""


class TokensError(MilvusCoopError, ValueError):
    """A stored token string does not fit the bundle."""


def quoted(value: object) -> str:
    """The value as Python writes it, for a message: long ones are shortened, and control characters are escaped."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value):,} bytes"
    try:
        text = _SHORT.repr(value)
    except Exception:  # whatever a type's own repr raises; also an int of more than 4,300 digits
        text = f"of type {type(value).__name__}"
    return shortened(" ".join(text.split()) if "\n" in text else text)


def shortened(text: str, longest: int = LONGEST_QUOTE) -> str:
    """The text; if it has more than `longest` characters, without its middle."""
    head, tail = (longest - 3 + 1) // 2, (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:head]}...{text[-tail:]}"


def reason_of(error: BaseException) -> str:
    """The reason in an error from elsewhere. `str` of an OSError would repeat its number and the path, which the message has."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = LONGEST_QUOTE
