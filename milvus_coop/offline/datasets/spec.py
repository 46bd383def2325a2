"""The `--data` argument: `FORMAT:PATH[,key=value]...`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from milvus_coop.errors import DatasetError

_OPTION = re.compile(r"([A-Za-z][A-Za-z_]*)=(.*)", re.DOTALL)
_BEFORE_OPTION = re.compile(r",(?=[A-Za-z][A-Za-z_]*=)")
_FORMAT = re.compile(r"[A-Za-z0-9_-]{2,}")  # one letter is a drive on Windows
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]+)*")


@dataclass(frozen=True)
class Spec:
    """A data set as named by the user, split into its parts."""

    text: str
    """The argument as it was given."""
    format: str
    """The name of the format. '' if the format must be guessed from the path."""
    path: Path | None
    options: Mapping[str, str]
    may_lack_captions: bool = False
    """True if images without captions are kept."""

    def where(self) -> Path:
        """The path.

        Raises:
            DatasetError: no path was given, or it does not exist.
        """
        if self.path is None:
            raise DatasetError(f"--data {self.text}: no path", expected=f"{self.format}:PATH[,key=value]...")
        if not self.path.exists():
            raise DatasetError(f"--data {self.text}: there is no {self.path}", expected="a file or folder that exists")
        return self.path

    def folder(self, key: str, default: Path) -> Path:
        """The folder that an option names, or `default`."""
        if key not in self.options:
            return default
        folder = Path(self.options[key]).expanduser()
        if not folder.is_dir():
            raise self.wrong(key, "a folder that exists")
        return folder

    def whole(self, key: str, default: int, *, minimum: int, maximum: int) -> int:
        """A whole number from `minimum` to `maximum`."""
        text = self.options.get(key, str(default))
        if not re.fullmatch(r"\d{1,12}", text) or not minimum <= int(text) <= maximum:
            raise self.wrong(key, f"a whole number from {minimum} to {maximum}")
        return int(text)

    def share(self, key: str, default: float) -> float:
        """A share from 0 to less than 1."""
        text = self.options.get(key, str(default))
        if not re.fullmatch(r"0?\.\d{1,12}|0", text):
            raise self.wrong(key, f"a share such as {default}, below 1")
        return float(text)

    def switch(self, key: str, default: bool) -> bool:
        """An option that is 0 or 1, as a bool."""
        text = self.options.get(key, str(int(default)))
        if text not in {"0", "1"}:
            raise self.wrong(key, "0 or 1")
        return text == "1"

    def languages(self, default: str) -> tuple[str, ...]:
        """The codes in `language=en+de`, each once."""
        codes = tuple(dict.fromkeys(self.options.get("language", default).split("+")))
        if not all(_LANGUAGE.fullmatch(code) for code in codes):
            raise self.wrong("language", "language codes such as en or en+de")
        return codes

    def wrong(self, key: str, expected: str) -> DatasetError:
        """The error for an invalid value of an option."""
        return DatasetError(f"--data {self.text}: {key}={self.options.get(key, '')}", expected=expected)

    def check_keys(self, known: Collection[str]) -> None:
        """Refuse options that the format does not have.

        Raises:
            DatasetError: an option is unknown. The message names it and the known ones.
        """
        for key in self.options:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                raise DatasetError(
                    f"--data {self.text}: {self.format} has no option '{key}'",
                    expected=f"one of {', '.join(known)}",
                    run=f"{close[0]}={self.options[key]}" if close else "",
                )


def parse_spec(text: str, formats: Collection[str]) -> Spec:
    """Split `FORMAT:PATH[,key=value]...` into its parts. Paths and values may contain commas.

    Raises:
        DatasetError: nothing was given, a key is given twice, or there is no such format.
    """
    head, colon, rest = text.partition(":")
    format_ = ""
    if head in formats:
        format_, rest = head, rest if colon else ""
    elif colon and _FORMAT.fullmatch(head) and not rest.startswith("//") and not Path(text).exists():
        close = difflib.get_close_matches(head, formats, n=1)
        raise DatasetError(
            f"--data {text}: there is no format '{head}'",
            expected=f"one of {', '.join(formats)}",
            run=f"--data {close[0]}:{rest}" if close else "",
        )
    else:
        rest = text
    if _ADDRESS.match(rest):
        raise DatasetError(f"--data {text} is an address", expected="a file or folder of this machine: download the data first")
    pieces = _BEFORE_OPTION.split(rest) if rest.strip() else []
    path = Path(pieces.pop(0)).expanduser() if pieces and not _OPTION.fullmatch(pieces[0]) else None
    options: dict[str, str] = {}
    for key, value in (match.groups() for piece in pieces if (match := _OPTION.fullmatch(piece))):
        if key in options:
            raise DatasetError(f"--data {text}: {key} is given twice", expected="each key once")
        options[key] = value.strip()
    if not format_ and path is None:
        raise DatasetError(
            f"--data '{text}' names no data", expected=f"FORMAT:PATH[,key=value]..., FORMAT one of {', '.join(formats)}"
        )
    return Spec(text, format_, path, options)
