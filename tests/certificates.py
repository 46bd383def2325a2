"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

LOOPBACK = "subjectAltName=IP:127.0.0.1"


def make_certificate(folder: Path, name: str) -> Path:
    """A PEM file with a certificate that signs itself, and its key; each is also in a file of its own, `.crt` and `.key`.

    The certificate is also valid for 127.0.0.1.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", LOOPBACK]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.crt"]
    subprocess.run([openssl, "req", *options, *files], cwd=folder, check=True, capture_output=True)
    both = folder / f"{name}.pem"
    both.write_bytes((folder / f"{name}.crt").read_bytes() + (folder / f"{name}.key").read_bytes())
    return both
