"""The commands for large collections: Parquet files, options of a collection, aliases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from milvus_coop.cli.main import cli
from milvus_coop.store import Store

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "images"
PICTURES = ("dog.jpg", "cat.jpg", "apple.jpg", "coffee.jpg")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def report(*arguments: str | Path) -> dict[str, int]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, int] = json.loads(result.stdout)
    return found


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`photos/` and a list of them with metadata, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in PICTURES:
        shutil.copy(EXAMPLES / name, tmp_path / "photos" / name)
    lines = [{"path": f"photos/{name}", "tenant": "ab"[i % 2]} for i, name in enumerate(PICTURES)]
    lines[3].pop("tenant")
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "photos"


def uris(*arguments: str) -> list[tuple[str, float]]:
    result = run("query", "a dog", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [(hit["uri"], hit["score"]) for hit in map(json.loads, result.stdout.splitlines())]


def test_files_instead_of_a_collection(photos: Path) -> None:
    """The same rows and the same hits as from an ingest into a collection; unchanged images are not encoded again."""
    to_files = ("ingest", "photos", "--sink", "parquet", "--out", "run")
    assert report(*to_files)["added"] == 4
    assert report(*to_files)["unchanged"] == 4
    shutil.copy(EXAMPLES / "owl.jpg", photos / "cat.jpg")
    (photos / "apple.jpg").unlink()
    again = report(*to_files, "--prune")
    assert (again["added"], again["updated"], again["unchanged"], again["removed"]) == (0, 1, 2, 1)
    assert report("load", "run")["added"] == 3
    assert report("load", "run")["unchanged"] == 3
    assert report("ingest", "photos", "--collection", "direct")["added"] == 3
    assert report("ingest", "photos")["unchanged"] == 3
    assert uris() == uris("--collection", "direct")
    assert report("collections", "export", "images", "again")["added"] == 3
    assert report("collections", "export", "images", "again")["unchanged"] == 3
    assert report("load", "again", "--uri", "other.db")["added"] == 3
    assert uris("--uri", "other.db") == uris()


def test_wrong_uses_of_files() -> None:
    assert "--sink parquet and --out belong together" in run("ingest", "photos", "--out", "run").output
    assert "--sink parquet and --out belong together" in run("ingest", "photos", "--sink", "parquet").output
    nothing = run("load", "photos")
    assert nothing.exit_code == 2
    assert "Error: there are no rows in" in nothing.output
    assert "Milvus Lite indexes its rows itself" in run("ingest", "photos", "--build-index", "after").output


def test_items_without_the_partition_key_are_named() -> None:
    assert run("collections", "create", "shops", "--partition-key", "tenant", "--property", "a=b=c").exit_code == 0
    for arguments in (("--collection", "shops"), ("--sink", "parquet", "--out", "run", "--partition-key", "tenant")):
        result = run("ingest", "list.jsonl", *arguments)
        assert result.exit_code == 1
        assert "3 added" in result.output
        assert "coffee.jpg" in result.output
        assert "the partition key of the collection" in " ".join(result.output.split())
    assert len(uris("--collection", "shops", "--filter", "tenant == 'a'")) == 2
    assert run("ingest", "photos", "--collection", "shops").exit_code == 1
    assert report("load", "run", "--collection", "loaded")["added"] == 3
    with Store("milvus_coop.db") as store:
        assert store._describe("shops")["properties"]["a"] == "b=c"
        assert store.open("loaded").refusal({}) != ""
    assert "expected: KEY=VALUE" in run("collections", "create", "x", "--property", "a").output


def test_aliases() -> None:
    for name in ("first", "second"):
        assert run("collections", "create", name).exit_code == 0
    assert run("ingest", "photos", "--collection", "second").exit_code == 0
    alias = ("collections", "alias")
    assert run(*alias, "set", "live", "first").exit_code == 0
    assert uris("--collection", "live") == []
    assert "no longer 'first'" in run(*alias, "switch", "live", "second").output
    assert len(uris("--collection", "live")) == 4
    assert json.loads(run(*alias, "list", "--json").stdout) == {"alias": "live", "collection": "second"}
    refused = run("collections", "drop", "second", "--yes")
    assert refused.exit_code == 2
    assert "has the alias 'live'" in refused.output
    assert run(*alias, "drop", "live").exit_code == 0
    assert run("collections", "drop", "second", "--yes").exit_code == 0
    assert "has its index already" in run("collections", "build-index", "first").output


def test_the_image_column_reaches_the_ingest(photos: Path) -> None:
    table = pa.table({"key": ["dog"], "thumb": [(photos / "dog.jpg").read_bytes()]})
    pq.write_table(table, "table.parquet")
    assert report("ingest", "table.parquet", "--image-column", "thumb")["added"] == 1
