"""Certificate files that cannot be used are named before anybody connects."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from milvus_coop.certificates import check_certificates, check_key_pair
from milvus_coop.errors import InvalidArgumentError
from tests.certificates import make_certificate

NAMES = ("triton_cert_file", "triton_key_file")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("own", "other"):
        make_certificate(folder, name)
    return folder


def test_certificates_are_taken(folder: Path) -> None:
    chain = folder / "chain.pem"
    chain.write_text("".join((folder / f"{name}.crt").read_text() for name in ("own", "other")) + "\n# the end\n")
    for name in ("own.crt", "own.pem", "chain.pem"):
        check_certificates(folder / name, "ca_file")
    check_key_pair(folder / "own.crt", folder / "own.key", NAMES)
    check_key_pair(folder / "own.pem", folder / "own.pem", NAMES)


def test_what_is_no_certificate_is_named(folder: Path, tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert((folder / "own.crt").read_text())
    cut = (folder / "own.crt").read_bytes()[:300]
    contents = {"empty": b"", "text": b"a letter", "binary": bytes(range(256)), "der": der, "cut": cut}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidArgumentError, match=f"ca_file is .*{name}, which holds no certificate; expected: a PEM file"):
            check_certificates(tmp_path / name, "ca_file")
    with pytest.raises(InvalidArgumentError, match="which holds no certificate"):
        check_certificates(folder / "own.key", "ca_file")
    for missing, says in ((tmp_path / "nothing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InvalidArgumentError, match=f"cannot be read: .*{says}"):
            check_certificates(missing, "ca_file")
    for name in ("a\0b", "a" * 5000):
        with pytest.raises(InvalidArgumentError, match=r"ca_file is .* cannot name a file"):
            check_certificates(Path(name), "ca_file")


def test_what_is_not_the_key_is_named(folder: Path) -> None:
    locked = ["openssl", "rsa", "-aes256", "-in", "own.key", "-out", "locked.key", "-passout", "pass:geheim"]
    subprocess.run(locked, cwd=folder, check=True, capture_output=True)
    for key, says in (
        ("other.key", "does not belong to .*own.crt"),
        ("own.crt", "holds no private key"),
        ("locked.key", "no private"),
    ):
        with pytest.raises(InvalidArgumentError, match=f"triton_key_file is .*{key}, which .*{says}"):
            check_key_pair(folder / "own.crt", folder / key, NAMES)
    with pytest.raises(InvalidArgumentError, match=r"triton_cert_file is .*own\.key, which holds no certificate"):
        check_key_pair(folder / "own.key", folder / "own.key", NAMES)
