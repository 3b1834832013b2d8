"""Records as somebody may have written them, for property tests: odd numbers, blanks, repeated names."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from llm4dsr_cli.records.record_format import RecordFormat

# Numbers that no parser keeps as they are written.
NUMBERS = ["0", "-0", "-0.0", "1e-400", "12345678901234567.891", "3.14159265358979323846", "1E5", "1.50", "2e+1"]
NUMBERS += ["123456789012345678901234567890", "-1", "0.1000"]
blanks = st.text(" \t\r", max_size=2)
names = st.text(st.sampled_from('ab"\\,:[]{}é七🎬 '), max_size=4)


@st.composite
def written(draw: st.DrawFn, depth: int = 2) -> str:
    """A JSON value as somebody may have written it."""
    kind = draw(st.sampled_from(["number", "text", "word", "list", "object"][: 5 if depth else 3]))
    if kind == "number":
        return draw(st.sampled_from(NUMBERS))
    if kind == "text":
        return json.dumps(draw(names), ensure_ascii=draw(st.booleans()))
    if kind == "word":
        return draw(st.sampled_from(["true", "false", "null"]))
    inner = draw(st.lists(written(depth - 1), max_size=3))
    if kind == "list":
        return draw(listed(inner))
    return draw(members_of([(draw(names), value) for value in inner]))


@st.composite
def listed(draw: st.DrawFn, entries: list[str]) -> str:
    """A list with these entries, its separators all the same."""
    mark = f"{draw(blanks)},{draw(blanks)}"
    return f"[{draw(blanks)}{mark.join(entries)}{draw(blanks)}]"


@st.composite
def members_of(draw: st.DrawFn, members: list[tuple[str, str]]) -> str:
    """An object with these members, in this order, with blanks anywhere; a name may be there twice."""
    pieces = [
        f"{draw(blanks)}{json.dumps(name, ensure_ascii=draw(st.booleans()))}{draw(blanks)}:{draw(blanks)}{value}"
        f"{draw(blanks)}"
        for name, value in members
    ]
    return "{" + (",".join(pieces) or draw(blanks)) + "}"


@st.composite
def records(draw: st.DrawFn) -> tuple[str, int]:
    """A record of items with lists beside them, one of them in an object; and how many items there are."""
    n = draw(st.integers(1, 5))
    shape = draw(st.sampled_from(["titles", "ids", "objects"]))
    ids = draw(st.lists(st.sampled_from(["7", "-1", NUMBERS[9]]), min_size=n, max_size=n))
    texts = [json.dumps(f"t{draw(names)}", ensure_ascii=draw(st.booleans())) for _ in range(n)]
    items = texts if shape == "titles" else ids
    if shape == "objects":
        items = [
            draw(members_of([("rating", draw(written(1))), ("id", id_), ("title", text), ("rating", draw(written(0)))]))
            for id_, text in zip(ids, texts, strict=True)
        ]
    times = draw(listed([draw(written(0)) for _ in range(n)]))
    fields = [
        ("items", draw(listed(items))),
        ("stars", draw(listed([draw(written(1)) for _ in range(n)]))),
        ("more", draw(members_of([("times", times), ("x", draw(written()))]))),
        *([("names", draw(listed(texts)))] if shape == "ids" else []),
        *[(f"_{draw(names)}", draw(written())) for _ in range(draw(st.integers(0, 3)))],
    ]
    fields = draw(st.permutations(fields))
    if draw(st.booleans()):  # of a name that is there twice, the last value counts
        fields = [(draw(st.sampled_from(["items", "stars", "more"])), draw(written())), *fields]
    return f"{draw(blanks)}{draw(members_of(fields))}{draw(blanks)}", n


def form_of(found: dict[str, Any]) -> RecordFormat:
    return RecordFormat(titles_field="names" if "names" in found else None, parallel_fields=("stars", "more.times"))
