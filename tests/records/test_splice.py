"""Splice: an edit of a line changes what it says, as JSON has it, and no other byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_records import form_of, records, written

from llm4dsr_cli.records import splice
from llm4dsr_cli.records.edits import Edit, edit_record
from llm4dsr_cli.records.parsing import parse_record
from llm4dsr_cli.records.record_format import RecordFormat

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(records(), st.data())
def test_an_edited_line_says_what_the_edited_object_says(example: tuple[str, int], data: st.DataObject) -> None:
    """Guards: another entry cut out, a separator too many, an item put into the wrong list, another member's value."""
    line, n = example
    found = json.loads(line)
    record = parse_record(line.encode(), "here", form_of(found), None)
    places = st.sets(st.integers(0, n - 1))
    drop, put = data.draw(places), data.draw(places)
    item = found["items"][0]
    new = {"rating": 5, "id": 8, "title": "new"} if isinstance(item, dict) else "new" if isinstance(item, str) else 8
    edits = dict.fromkeys(put, (new, "new"))
    add = data.draw(st.sampled_from([None, {"flag": [1] * n}]))
    result = record.render(drop, add, edits)
    kept = [i for i in range(n) if i not in drop]
    expected = {
        "items": [new if i in put else found["items"][i] for i in kept],
        "stars": [found["stars"][i] for i in kept],
        "more": {**found["more"], "times": [found["more"]["times"][i] for i in kept]},
    }
    if "names" in found:
        expected["names"] = ["new" if i in put else found["names"][i] for i in kept]
    assert json.loads(result) == {**found, **expected, **(add or {})}
    assert json.loads(json.dumps(record.edited(drop, add, edits))) == json.loads(result)
    if not (drop or put or add):
        assert result == line.encode()


def put_back(line: bytes, names: tuple[str, ...], position: int, entry: bytes, separator: bytes) -> bytes:
    """A line with an entry put into a list again."""
    span = splice.lists(line)[names]
    if position < len(span.entries):
        at = span.entries[position][0]
        return line[:at] + entry + separator + line[at:]
    at = span.entries[-1][1]
    return line[:at] + separator + entry + line[at:]


@unhurried
@given(records(), st.data())
def test_the_audit_gives_the_bytes_back(example: tuple[str, int], data: st.DataObject) -> None:
    """Guards: a float that comes back with other digits, -0 as 0, a key that was there twice once, when an edit is
    taken back; any byte of the record that an edit had no reason to touch."""
    line, n = example
    found = json.loads(line)
    record = parse_record(line.encode(), "here", form_of(found), None)
    drop = sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1)))
    edits = [Edit(i, "drop", 0.5) for i in drop]
    edited = edit_record(record, edits, add={}, output_line=1, threshold=0.5, parallel=record.named_lists)
    result, spans = edited.line, splice.lists(line.encode())
    for audit in edited.audit:  # from the first position on
        value_of = {member.name: audit[slice(*member.value)] for member in splice.members(audit)}
        beside = value_of["parallel"]
        entries = {tuple(one.name.split(".")): beside[slice(*one.value)] for one in splice.members(beside)}
        assert {".".join(names) for names in entries} == {
            "stars",
            "more.times",
            *(["names"] if "names" in found else []),
        }
        for names, entry in {("items",): value_of["from"], **entries}.items():
            of = spans[names].entries
            separator = line.encode()[of[0][1] : of[1][0]]
            result = put_back(result, names, json.loads(audit)["position"], entry, separator)
    assert result == line.encode()


@unhurried
@given(written(3))
def test_lists_and_members_are_found_where_they_are(text: str) -> None:
    """Guards: brackets, commas and quotation marks in strings taken for JSON's own."""
    line = ('{"a":' + text + "}").encode()

    def walk(inner: Any, path: tuple[str, ...]) -> None:
        if isinstance(inner, list):
            span = splice.lists(line)[path]
            assert [json.loads(line[start:end]) for start, end in span.entries] == inner
            assert line[span.opened : span.opened + 1] + line[span.closed : span.closed + 1] == b"[]"
        elif isinstance(inner, dict):
            for name, more in inner.items():
                walk(more, (*path, name))

    walk(json.loads(line)["a"], ("a",))
    (member,) = splice.members(line)
    assert (member.name, line[slice(*member.value)].decode()) == ("a", text.strip(" \t\r"))


@pytest.mark.parametrize(
    ("line", "drop", "wanted"),
    [
        ('{"items": ["a" ,  "b","c"], "x": 1.50}', [0], '{"items": ["b","c"], "x": 1.50}'),
        ('{"items": ["a" ,  "b","c"], "x": -0}', [1], '{"items": ["a","c"], "x": -0}'),
        ('{"items": ["a" ,  "b","c" ], "x": 1e-400}', [2], '{"items": ["a" ,  "b" ], "x": 1e-400}'),
        ('{"x": 1, "items":["a","b"], "x": 2}', [0], '{"x": 1, "items":["b"], "x": 2}'),
        ('{"items":["z"],"items":["a","b"]}', [0], '{"items":["z"],"items":["b"]}'),
    ],
)
def test_the_rest_of_the_line_stays(line: str, drop: list[int], wanted: str) -> None:
    """Guards: numbers written anew, blanks lost, of a name that is there twice only the last kept."""
    assert parse_record(line.encode(), "here", RecordFormat(), None).render(drop).decode() == wanted


def test_of_a_replaced_object_only_what_changes_changes() -> None:
    """Guards: the time of an interaction rounded because the item in it was replaced."""
    line = (
        b'{"items": [{"id": 1, "t":1700000000.1234567890123, "id": 1, "title":"a", "r": 4.50}, {"id":2,"title":"b"}]}'
    )
    record = parse_record(line, "here", RecordFormat(), None)
    new = {**record.item_values[0], "id": 9, "title": "n"}
    assert record.render(put={0: (new, "n")}) == line.replace(b'"id": 1', b'"id": 9').replace(b'"a"', b'"n"')
    del new["r"]
    assert record.render(put={0: (new, "n")}).startswith(
        b'{"items": [{"id": 9, "t":1700000000.1234567890123, "id": 9, "title":"n"}, {'
    )
