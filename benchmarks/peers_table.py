"""The table of a result of `peers.py`, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LIMITS: dict[str, str] = {
    "milvus-coop": "the checkpoint has to be converted first; an ANN index misses some of the exact neighbours",
    "milvus-coop, ingest": "",
    "sentence-transformers": "returns arrays: no index, no resumed ingest (`SentenceTransformer.encode`)",
    "sentence-transformers, CrossEncoder": "encodes every image again for every query, and has no class of BLIP's kind "
    "(`CrossEncoder.predict`)",
    "transformers, BLIP": "opens and encodes every candidate again for every query; no index",
    "fastembed": "its cross-encoders read text only (`fastembed/rerank`)",
    "clip-retrieval": "no cross-encoder; a killed run starts again (its issue 368); needs numpy < 2",
    "pymilvus": "does not rerank",
    "MMT-Retrieval": "compares all embeddings, in memory; returns reranked hits worst first, because it sorts upwards "
    "(`retrieval.py`); its package does not import with transformers 5",
}
"""What a system cannot do, and where that is seen."""
NAMES = {"encoding": "encode a folder", "reranking": "find and rerank", "search": "search"}
HEAD = ("part", "system", "work", "median", "rate", "time ÷ ours", "CPU time ÷ ours", "peak MB", "bytes per image", "cannot")

Result = Mapping[str, Any]


def table(measured: Mapping[str, Any]) -> str:
    """The run in one line, and a table of all contestants."""
    lines = [_about(measured), "", _line(HEAD), _line("---" for _ in HEAD)]
    said: set[str] = set()
    results: Sequence[Result] = measured["results"]
    for result in results:
        ours = next(one for one in results if _group(one) == _group(result))
        for cells in _rows(result, ours):
            limit = LIMITS.get(_family(result["system"]), "")
            lines.append(_line([*cells, "" if limit in said else limit]))
            said.add(limit)
    return "\n".join(lines)


def _about(measured: Mapping[str, Any]) -> str:
    machine, versions = measured["machine"], {}
    for result in measured["results"]:
        facts = {name: value for name, value in result.get("facts", {}).items() if isinstance(value, str)}
        versions.update({name: value for name, value in facts.items() if name not in versions})
    named = ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))
    return (
        f"{machine['cores']} cores ({machine['cpu']}), load {machine['load'][0]} at the end, Python {machine['python']}, "
        f"{measured['turns']} turns in {measured['minutes']:g} minutes; {named}."
    )


def _group(result: Result) -> tuple[Any, ...]:
    return result["part"], result.get("items"), result.get("k")


def _family(system: str) -> str:
    return {"milvus-coop, encoder": "milvus-coop", "sentence-transformers, ONNX": "sentence-transformers"}.get(system, system)


def _rows(result: Result, ours: Result) -> Iterable[list[str]]:
    part = NAMES[result["part"]] + (f", {result['items']:,} items" if "items" in result else "")
    if "not_run" in result:
        yield [part, result["system"], f"does not run: {result['not_run'].replace('|', '/')}", *[""] * 6]
        return
    for number, (work, times) in enumerate(result["works"].items()):
        count = result["counts"].get(work, 1)
        seconds = statistics.median(times["seconds"])
        base = _base(ours, work)
        rate = f"{count / seconds:,.1f}/s"
        cells = [part, result["system"], _named(result, work), _ms(seconds / count), rate]
        cells += [_ratio(times[key], base[key]) if base and result is not ours else "" for key in ("seconds", "cpu_s")]
        yield [*cells, *([_memory(result), _bytes(result)] if number == 0 else ["", ""])]


def _named(result: Result, work: str) -> str:
    answer = result.get("answers", {}).get(work, {})
    extra = [f"k = {result['k']}"] if "k" in result else []
    if "recall" in answer:
        extra.append(f"{100 * answer['recall']:.0f} % of the exact {result['k']}")
    if cosine := result.get("smallest_cosine", {}).get(work):
        extra.append(f"cosine with ours ≥ {cosine:.3f}")
    return f"{work} ({', '.join(extra)})" if extra else work


def _base(ours: Result, work: str) -> Mapping[str, list[float]] | None:
    works = ours.get("works", {})
    found: Mapping[str, list[float]] | None = works.get(work, works.get("query"))
    return found


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    ratios = [one / other for one, other in zip(theirs, ours, strict=False) if other]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def _memory(result: Result) -> str:
    return f"{result['peak_mb']:,.0f}" if "peak_mb" in result else ""


def _bytes(result: Result) -> str:
    stored = {**result.get("facts", {})}
    for answer in result.get("answers", {}).values():
        stored.update(answer)
    return f"{stored['stored_bytes']:,.0f}" if "stored_bytes" in stored else ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
