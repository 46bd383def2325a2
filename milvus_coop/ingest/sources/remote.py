"""Object stores: prefixes and globs at s3://, gs://, az:// and abfs://, listed through fsspec.

A prefix is listed folder by folder, and nothing is kept but the names of folders that are still to be listed. S3 is listed page by
page, 1,000 objects each. The drivers of other stores return a whole folder at once, as a dict for each object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from milvus_coop.elsewhere.objects import RemoteFile, lost, reason, version_of
from milvus_coop.elsewhere.outages import patiently
from milvus_coop.ingest.sources.files import PassOver
from milvus_coop.ingest.sources.walk import ANY_DEPTH, OTHER_IMAGES, matches, suffix_of
from milvus_coop.printable import escaped
from milvus_coop.types import Failure


def walk_remote(
    root: RemoteFile, parts: Sequence[str], suffixes: frozenset[str], pass_over: PassOver | None = None
) -> Iterator[RemoteFile | Failure]:
    """The objects below a prefix that match a pattern and have one of the suffixes; see `walk`, which does it for folders.

    Objects that are named twice, such as by a listing that changes, are yielded twice.
    """
    flat = tuple(parts) == (ANY_DEPTH,)  # no folder is left out, and so S3 need not say which there are
    depth = None if ANY_DEPTH in parts else len(parts)
    waiting: list[str] = [""]
    while waiting:
        folder = waiting.pop()
        folders: list[str] = []
        try:
            for path, info in _listing(root.system, f"{root.path}/{folder}".rstrip("/"), flat):
                name = path.removeprefix(f"{root.path}/")
                names = tuple(name.split("/"))
                if any(part.startswith(".") for part in names):
                    continue
                if info is None:
                    folders += [name] if name else []
                elif matches(parts, names) and suffix_of(names[-1]) in suffixes:
                    yield root.below(name, version_of(info))
                elif pass_over and suffix_of(names[-1]) in OTHER_IMAGES and matches(parts, names):
                    pass_over(suffix_of(names[-1]), root.below(name).name)
        except Exception as exc:  # drivers raise errors of botocore, aiohttp, azure, ...
            where = escaped(f"{root.name}/{folder}".rstrip("/"))
            yield Failure(where, f"the prefix cannot be listed: {reason(exc)}", lost(exc))
        if depth is None or (folder.count("/") + 1 if folder else 0) + 1 < depth:
            waiting += reversed(folders)


def _listing(system: Any, path: str, flat: bool) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """The paths of objects with their facts, and those of folders with None.

    If `flat`, the objects of folders may come in place of the folders.
    """
    if hasattr(system, "call_s3"):
        yield from _pages_of_s3(system, path, flat)
        return
    system.invalidate_cache()
    try:
        found = system.ls(path, detail=True)
    except FileNotFoundError:  # an empty prefix
        return
    for info in sorted(found, key=lambda info: str(info["name"])):
        name = str(info["name"]).rstrip("/")
        if info["type"] == "directory":
            yield name, None
        elif not str(info["name"]).endswith("/"):
            yield name, info


def _pages_of_s3(system: Any, path: str, flat: bool) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    bucket, key, _ = system.split_path(path)
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **({} if flat else {"Delimiter": "/"})}

    def next_page() -> Any:
        return system.call_s3("list_objects_v2", **asked, **getattr(system, "req_kw", {}))

    page = next_page()
    while True:
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):  # a mark for an empty folder
                yield f"{bucket}/{found['Key']}", found
        for found in page.get("CommonPrefixes", ()):
            yield f"{bucket}/{found['Prefix'][:-1]}", None
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]
        page = patiently(next_page, lost)  # the store has answered before, and a listing of many pages cannot begin anew
