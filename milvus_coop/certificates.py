"""Checks of certificate files before a connection is made. gRPC would only say that the server cannot be reached."""

from __future__ import annotations

import ssl
from pathlib import Path

from milvus_coop.arguments import as_path
from milvus_coop.errors import InvalidArgumentError

CERTIFICATES = "a PEM file that begins with -----BEGIN CERTIFICATE-----"
KEY = "a PEM file with the private key of that certificate, without a password"


def check_certificates(path: Path, name: str) -> None:
    """Check that a file holds certificates in PEM form.

    Args:
        path: the file.
        name: the parameter that names it, for the message.

    Raises:
        InvalidArgumentError: the file is missing, cannot be read, or holds something else.
    """
    _check_readable(path, name, CERTIFICATES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
        found = context.cert_store_stats()["x509"]
    except ssl.SSLError:
        found = 0
    if not found:
        raise InvalidArgumentError(f"{name} is {path}, which holds no certificate", expected=CERTIFICATES)


def check_key_pair(certificates: Path, key: Path, names: tuple[str, str]) -> None:
    """Check that a file holds a certificate in PEM form, and another one its private key.

    Args:
        certificates: the file of the certificate and its chain.
        key: the file of the key.
        names: the parameters that name the two files, for the messages.

    Raises:
        InvalidArgumentError: a file is missing, cannot be read or holds something else, or the key belongs to another certificate.
    """
    check_certificates(certificates, names[0])
    _check_readable(key, names[1], KEY)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificates, key, password="")
    except ssl.SSLError as exc:
        is_other = exc.reason == "KEY_VALUES_MISMATCH"
        fault = f"does not belong to {certificates}" if is_other else "holds no private key that can be read"
        raise InvalidArgumentError(f"{names[1]} is {key}, which {fault}", expected=KEY) from exc


def _check_readable(path: Path, name: str, expected: str) -> None:
    try:
        is_file = as_path(name, path).is_file()
        path.open("rb").close()
    except OSError as exc:
        raise InvalidArgumentError(f"{name} is {path}, which cannot be read: {exc.strerror}", expected=expected) from exc
    if not is_file:
        raise InvalidArgumentError(f"{name} is {path}, which is not a file", expected=expected)
