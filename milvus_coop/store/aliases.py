"""Aliases: other names of collections, by which a collection is replaced without downtime."""

from __future__ import annotations

from milvus_coop.errors import BundleMismatchError, CollectionExistsError, CollectionNotFoundError, InvalidArgumentError
from milvus_coop.store.connection import Connection
from milvus_coop.store.schema import Header, check_name, read_header


class Aliases:
    """The aliases of a Milvus database.

    A collection that was opened by an alias stays the same collection when the alias is moved. Whoever opens the alias afterwards
    gets the other one.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> dict[str, str]:
        """The name of the collection of each alias, by alias."""
        names = sorted(self._connection.call("list_aliases")["aliases"])
        return {name: str(self._connection.call("describe_alias", alias=name)["collection_name"]) for name in names}

    def set(self, alias: str, collection: str) -> None:
        """Give a collection an alias. Nothing happens if it has it already.

        Raises:
            CollectionNotFoundError: there is no collection of that name.
            CollectionExistsError: a collection has the name `alias`, or another collection has the alias.
        """
        target, _ = self._target(alias, collection)
        known = self.list()
        if alias not in known:
            self._connection.call("create_alias", collection=target, alias=alias)
        elif known[alias] != target:
            raise CollectionExistsError(
                f"the alias '{alias}' names the collection '{known[alias]}'",
                expected="a new alias",
                run=f"milvus-coop collections alias switch {alias} {collection}",
            )

    def switch(self, alias: str, collection: str, *, other_bundle: bool = False) -> str:
        """Move an alias to another collection, in one step.

        Args:
            alias: an alias.
            collection: the collection that it is to name.
            other_bundle: allow a collection that was made with another bundle, or that holds items of another kind.

        Returns:
            The name of the collection that the alias named before.

        Raises:
            CollectionNotFoundError: there is no such alias or no such collection.
            BundleMismatchError: the other collection was made with another bundle, or holds items of another kind.
        """
        target, header = self._target(alias, collection)
        before = self._known(alias)
        old = read_header(self._connection.call("describe_collection", collection=before))
        if not other_bundle and _made_of(old) != _made_of(header):
            raise BundleMismatchError(
                f"'{collection}' holds {_shown(header)}",
                expected=f"{_shown(old)}, like '{before}', which '{alias}' names; clients that use the alias have that bundle",
                run="--other-bundle, if no client uses the alias",
            )
        self._connection.call("alter_alias", collection=target, alias=alias)
        return before

    def drop(self, alias: str) -> str:
        """Remove an alias. The collection stays.

        Returns:
            The name of the collection.

        Raises:
            CollectionNotFoundError: there is no such alias.
        """
        before = self._known(alias)
        self._connection.call("drop_alias", alias=alias)
        return before

    def check_unused(self, name: str, collection: str) -> None:
        """Check that a collection may be dropped by this name.

        Raises:
            InvalidArgumentError: the name is an alias, or the collection has one.
        """
        if name != collection:
            raise InvalidArgumentError(
                f"'{name}' is an alias of '{collection}'", expected="a collection", run=f"milvus-coop collections alias drop {name}"
            )
        if names := [alias for alias, target in self.list().items() if target == collection]:
            raise InvalidArgumentError(
                f"the collection '{collection}' has the alias '{names[0]}'",
                expected="a collection that nobody opens by an alias",
                run=f"milvus-coop collections alias drop {names[0]}, or alias switch {names[0]} with another collection",
            )

    def _known(self, alias: str) -> str:
        known = self.list()
        if alias not in known:
            raise CollectionNotFoundError(
                f"there is no alias '{alias}' in {self._connection.address.label}", run="milvus-coop collections alias list"
            )
        return known[alias]

    def _target(self, alias: str, collection: str) -> tuple[str, Header | None]:
        """The name and the header of the collection that an alias is to name."""
        description = self._connection.call("describe_collection", collection=check_name(collection))
        try:
            taken = self._connection.call("describe_collection", collection=check_name(alias))["collection_name"] == alias
        except CollectionNotFoundError:
            taken = False
        if taken:
            raise CollectionExistsError(f"'{alias}' is the name of a collection", expected="another name for the alias")
        return str(description["collection_name"]), read_header(description)


def _made_of(header: Header | None) -> tuple[str, str] | None:
    return None if header is None else (header.kind, header.fingerprint)


def _shown(header: Header | None) -> str:
    if header is None:
        return "rows that milvus-coop did not make"
    return f"{header.kind}s of bundle {header.bundle} ({header.fingerprint[:8]})"
