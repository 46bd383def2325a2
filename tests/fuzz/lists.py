"""Generated lists of items: JSONL and CSV files, nearly right and badly wrong."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from hypothesis import strategies as st

from milvus_coop.types import Kind
from tests.fuzz.values import JSON_METADATA, JSON_VALUES, NAMES, TEXTS

PLACES = TEXTS | st.sampled_from(
    [
        *(
            "a.jpg",
            "../b.png",
            "file://[bad/x.jpg",
            "file:///c.jpg",
            "http://[::1",
            "https://example.com/x.jpg",
            "//host/share.jpg",
        ),
        *(
            "\0.jpg",
            "x" * 300 + ".jpg",
            "y" * 5000,
            "~",
            ".",
            "/",
            "C:\\x.jpg",
            "a\nb.jpg",
            "caf\udce9.jpg",
            "\ud83d.jpg",
            "data:,x",
        ),
    ]
)


def _row(row: tuple[dict[str, Any], dict[str, Any]]) -> bytes:
    named, metadata = row
    return json.dumps({**metadata, **named}).encode()


@st.composite
def _twice(draw: st.DrawFn) -> bytes:
    """An object with a key that appears twice."""
    key = json.dumps(draw(NAMES))
    return f'{{"path": "a.jpg", {key}: {json.dumps(draw(JSON_VALUES))}, {key}: 2}}'.encode()


_NAMED = st.fixed_dictionaries(
    {}, optional={"path": PLACES | JSON_VALUES, "uri": PLACES | JSON_VALUES, "text": TEXTS | JSON_VALUES, "id": TEXTS | JSON_VALUES}
)
_FITTING = st.fixed_dictionaries({"path": PLACES, "text": TEXTS.map(lambda text: f"a {text}")})

JSON_LINES = st.one_of(
    st.tuples(_FITTING, st.dictionaries(st.sampled_from(["year", "title", "gps"]), JSON_VALUES, max_size=2)).map(_row),
    st.tuples(_NAMED, JSON_METADATA).map(_row),
    JSON_VALUES.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
    _twice(),
    st.sampled_from(
        [b"[" * 50_000, b'{"a":' * 5000, b'{"path": "a.jpg", "n": ' + b"9" * 5000 + b"}", b'{"path":"a.png","gps":{"lat":1e400}}']
    ),
)
"""Lines of a JSONL file. They may hold line ends."""

JSONL_FILES = st.lists(JSON_LINES, max_size=5)


@st.composite
def csv_files(draw: st.DrawFn, kind: Kind) -> bytes:
    """A CSV file: a header and rows, some with too many or too few values, some damaged. Half of the headers fit the kind."""
    columns = st.sampled_from(["path", "uri", "text", "id", " year", "year", "title ", "", "Path"]) | NAMES
    header = draw(st.lists(columns, max_size=5))
    if draw(st.booleans()):
        header = ["path" if kind == "image" else "text", *draw(st.permutations(["year", " title ", "gps"]))]
    cells = PLACES | TEXTS | st.sampled_from(["12", "1e999", "007", "-1.5", "true", '"', "99999999999999999999"])
    rows = draw(st.lists(st.lists(cells, max_size=6), max_size=4))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=draw(st.sampled_from(["\n", "\r\n"])))
    writer.writerows([header, *rows])
    content = file.getvalue().encode(errors="surrogatepass")
    return content if draw(st.booleans()) else content + draw(st.binary(max_size=30))
