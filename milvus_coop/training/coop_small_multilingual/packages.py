"""The public packages that the multilingual recipe reads: captions, emoji names and dictionaries in many languages."""

from __future__ import annotations

from milvus_coop.training.coop_small.packages import PACKAGES as BASE_PACKAGES
from milvus_coop.training.coop_small.packages import Package

CLDR = Package("cldr-annotations-full", "npm", "48.2.0", "text", "emoji names and keywords (Unicode CLDR)", "Unicode-3.0")

FROM_ENGLISH: dict[str, tuple[str, str]] = {
    "ara": ("Arabic", "GPL-2+"),
    "ces": ("Czech", "GPL-2+"),
    "deu": ("German", "GPL-3+"),
    "ell": ("Greek", "GPL-2+"),
    "fra": ("French", "GPL-2+"),
    "hin": ("Hindi", "GPL-2+"),
    "hrv": ("Croatian", "GPL-2+"),
    "hun": ("Hungarian", "GPL-2"),
    "ita": ("Italian", "GPL-2+"),
    "nld": ("Dutch", "GPL-2+"),
    "pol": ("Polish", "GPL-3+ and GFDL-1.2+"),
    "por": ("Portuguese", "GPL-2+"),
    "rus": ("Russian", "GPL-2+"),
    "srp": ("Serbian", "GPL-2+"),
    "tur": ("Turkish", "GPL-2+"),
}
"""FreeDict dictionaries with English headwords: language and licence. Those under share-alike licences alone are left out, and two
(Spanish, Swedish) whose entries are shifted against each other."""

TO_ENGLISH: dict[str, tuple[str, str]] = {
    "dan": ("Danish", "GPL-3+"),
    "fra": ("French", "GPL-2+"),
    "isl": ("Icelandic", "GPL-3+"),
    "ita": ("Italian", "GPL-2+"),
    "nld": ("Dutch", "GPL-2+"),
    "por": ("Portuguese", "GPL-2+"),
    "slk": ("Slovak", "GPL-2+"),
    "slv": ("Slovenian", "GPL-3+"),
    "spa": ("Spanish", "GPL-2+"),
    "swe": ("Swedish", "GPL-2+"),
}
"""FreeDict dictionaries with English translations."""


def freedict(source: str, target: str, content: str, licence: str) -> Package:
    """One FreeDict package."""
    return Package(f"dict-freedict-{source}-{target}", "apt", "", "text", f"dictionary: {content}", licence)


PACKAGES: tuple[Package, ...] = (
    *(package for package in BASE_PACKAGES if package.name in ("tuxpaint-stamps-default", "wordnet-base")),
    CLDR,
    *(freedict("eng", code, f"English to {name}", licence) for code, (name, licence) in FROM_ENGLISH.items()),
    *(freedict(code, "eng", f"{name} to English", licence) for code, (name, licence) in TO_ENGLISH.items()),
)
