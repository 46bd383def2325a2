"""The list of families of checkpoints in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from milvus_coop.cli.lines import say
from milvus_coop.cli.tables import print_pairs
from milvus_coop.offline.convert.catalogue import Family

_ROLES = {"joint": "both roles", "be": "bi-encoder", "ce": "cross-encoder"}
_FACTS = ("example", "licence", "size", "verified")


def print_families(families: Sequence[Family]) -> None:
    """Print each family as a block. A table's narrow columns would break the ids, which users copy."""
    for family in families:
        facts = family_facts(family)
        say(f"{facts['name']}: {facts['role']}", bold=True)
        print_pairs("", ((name, facts[name]) for name in _FACTS))
        say()
    say("Licences are those of the examples as far as we know; their cards decide.")


def family_facts(family: Family) -> dict[str, str]:
    """The facts that the list shows of a family, by name."""
    return {name: getattr(family, name) for name in ("name", *_FACTS)} | {"role": _ROLES[family.role]}
