"""Damage to the bytes of a file, in every way that storage, networks and ill will know."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

HEADER_BYTES = 200


@st.composite
def damaged(draw: st.DrawFn, files: Mapping[str, bytes], name: str) -> bytes:
    """The file of that name after one to four kinds of damage; one of them puts the end of another file into it."""
    content = bytearray(files[name])
    for _ in range(draw(st.integers(1, 4))):
        # The header is small and says the most, so that half of the damage is done there.
        at = draw(st.integers(0, max(0, min(len(content), HEADER_BYTES) - 1)) | st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["byte", "number", "cut", "delete", "repeat", "insert", "zero", "splice"]))
        length = draw(st.integers(1, 40))
        if kind == "byte":
            content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "number":
            content[at : at + 4] = draw(
                st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\x80\0\0\0"])
            )
        elif kind == "cut":
            del content[at:]
        elif kind == "delete":
            del content[at : at + length]
        elif kind == "repeat":
            content[at:at] = content[at : at + length]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=40))
        elif kind == "zero":
            content[at : at + length] = bytes(length)
        else:
            content[at:] = files[draw(st.sampled_from(sorted(files)))][at:]
    return bytes(content)
