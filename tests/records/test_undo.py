"""Undo: the bytes that were read come back, all of them or those of some edits."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_records import form_of, records

from llm4dsr_cli.errors import Llm4dsrError, OptionError, RecordError
from llm4dsr_cli.records.audit import read_audit
from llm4dsr_cli.records.edits import Edit, EditedRecord, edit_record
from llm4dsr_cli.records.parsing import parse_record
from llm4dsr_cli.records.reader import LineReader
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.records.undo import Place, read_places, undo_edits

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def chance(position: int) -> float:
    return round(0.1 + position / 1000, 5)


def additions(n: int, edits: Sequence[Edit], added: Sequence[str]) -> dict[str, Any]:
    """What ``clean`` appends to a record of n items: a probability for each that stays, a flag for each."""
    put = {edit.position for edit in edits if edit.action == "replace"}
    gone = {edit.position for edit in edits if edit.action == "drop"}
    marked = {edit.position for edit in edits if edit.action == "mark"}
    values = {
        "noise_probability": [0.01 if i in put else chance(i) for i in range(n) if i not in gone],
        "noise_flag": [int(i in marked) for i in range(n)],
    }
    return {name: values[name] for name in added}


def edited(record: Record, edits: Sequence[Edit], number: int, added: Sequence[str]) -> EditedRecord:
    n = len(record.titles)
    return edit_record(
        record,
        edits,
        add=additions(n, edits, added),
        output_line=number,
        threshold=0.1,
        parallel=record.named_lists if any(edit.action == "drop" for edit in edits) else (),
        user=record.data.get("user_id"),
        chances=[chance(i) for i in range(n)],
    )


def replacing(position: int, item: Any, title: str) -> Edit:
    about = {"title": title, "noise_probability": 0.01, "proposer": "counts", "counts_score": 1.5}
    return Edit(position, "replace", chance(position), item, title, {"replacement": about})


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[bytes], list[Record], list[list[Edit]], list[str]]:
    """Lines, their records, the edits of each, and the names of the fields that the run adds."""
    marks = draw(st.booleans())
    added = [*draw(st.sampled_from([[], ["noise_probability"]])), *(["noise_flag"] if marks else [])]
    lines, parsed, all_edits = [], [], []
    for number, (text, n) in enumerate(draw(st.lists(records(), min_size=1, max_size=4)), 1):
        line, found = text.encode(), json.loads(text)
        items = found["items"]
        new = {"rating": 5, "id": 8, "title": "n\u00e9w"} if isinstance(items[0], dict) else "n\u00e9w"
        new = 8 if isinstance(items[0], int) else new
        edits = []
        for position in sorted(draw(st.sets(st.integers(0, n - 1)))):
            action = "mark" if marks else draw(st.sampled_from(["drop", "replace"]))
            edits.append(
                replacing(position, new, "n\u00e9w")
                if action == "replace"
                else Edit(position, action, chance(position))
            )
        lines.append(line)
        parsed.append(parse_record(line, f"in:{number}", form_of(found), None))
        all_edits.append(edits)
    return lines, parsed, all_edits, added


def written(folder: Path, results: Sequence[EditedRecord], suffix: str = "") -> tuple[Path, Path]:
    """The audit and the output of a run."""
    opened = gzip.open if suffix else open
    audit, out = folder / f"audit.jsonl{suffix}", folder / f"out.jsonl{suffix}"
    with opened(audit, "wb") as file:
        file.writelines(line + b"\n" for result in results for line in result.audit)
    with opened(out, "wb") as file:
        file.writelines(result.line + b"\n" for result in results)
    return audit, out


@unhurried
@given(runs(), st.sampled_from(["", ".gz"]))
def test_all_edits_taken_back_every_byte_is_what_it_was(
    run: tuple[list[bytes], list[Record], list[list[Edit]], list[str]], suffix: str
) -> None:
    """Guards: blanks around a dropped entry that are gone, digits of long floats, a key that was there twice, an empty
    list, fields that a run has added to records without edits."""
    lines, parsed, all_edits, added = run
    if not any(all_edits):  # of a run without edits, no audit tells that it has added fields
        added = []
    results = [edited(*one, number, added) for number, one in enumerate(zip(parsed, all_edits, strict=True), 1)]
    with tempfile.TemporaryDirectory() as name:
        audit, out = written(Path(name), results, suffix)
        undone = undo_edits(audit, out, Path(name) / "restored")
        assert (Path(name) / "restored").read_bytes() == b"".join(line + b"\n" for line in lines)
    assert undone.edits == undone.of_edits == sum(map(len, all_edits))


@unhurried
@given(runs(), st.data())
def test_some_edits_taken_back_the_rest_is_as_if_they_had_never_been(
    run: tuple[list[bytes], list[Record], list[list[Edit]], list[str]], data: st.DataObject
) -> None:
    """Guards: an item that comes back at another place once others are gone, ratings that do not come with it, flags
    and probabilities of other items."""
    _, parsed, all_edits, added = run
    results = [edited(*one, number, added) for number, one in enumerate(zip(parsed, all_edits, strict=True), 1)]
    places = [(number, edit.position) for number, edits in enumerate(all_edits, 1) for edit in edits]
    only: set[Place] = set(data.draw(st.lists(st.sampled_from(places)))) if places else set()
    expected = [
        edited(record, [edit for edit in edits if (number, edit.position) not in only], number, added).line
        for number, (record, edits) in enumerate(zip(parsed, all_edits, strict=True), 1)
    ]
    with tempfile.TemporaryDirectory() as name:
        audit, out = written(Path(name), results)
        undone = undo_edits(audit, out, Path(name) / "restored", only)
        assert (Path(name) / "restored").read_bytes() == b"".join(line + b"\n" for line in expected)
    assert undone.edits == len(only)


LINE = b'{"user_id": 7, "items": ["a", "b", "c"], "stars": [1, 2, 3]}'
FORM = RecordFormat(parallel_fields=("stars",))


def small_run(folder: Path) -> tuple[Path, Path]:
    """Three records, of which the first and the third lose an item."""
    parsed = [parse_record(LINE, f"in:{number}", FORM, None) for number in (1, 2, 3)]
    edits = [[Edit(1, "drop", 0.5)], [], [Edit(0, "drop", 0.5), Edit(2, "drop", 0.5)]]
    return written(folder, [edited(*one, i, []) for i, one in enumerate(zip(parsed, edits, strict=True), 1)])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda out: out.replace(b'"c"', b'"d"', 1),
            r"out\.jsonl:1: is not the line that the audit tells of: give the",
        ),
        (lambda out: out.split(b"\n", 1)[1], r"out\.jsonl:1: is not the line"),
        (lambda out: b"\n".join(out.split(b"\n")[:2]) + b"\n", r"out\.jsonl:3: is missing, and .*audit\.jsonl:2 tells"),
        (lambda out: b"", r"out\.jsonl:1: is missing"),
        (lambda out: b"user,item\n7,a\n7,c\n", r"out\.jsonl:1: is not the line"),
    ],
    ids=["changed", "a line less", "cut short", "empty", "csv"],
)
def test_another_file_than_the_audits_is_refused_and_nothing_is_written(tmp_path: Path, change: Any, told: str) -> None:
    """Guards: a file restored in half, or with records of another file in it."""
    audit, out = small_run(tmp_path)
    out.write_bytes(change(out.read_bytes()))
    before = files(tmp_path)
    for only in (None, {(1, 1)}):
        with pytest.raises(RecordError, match=told):
            undo_edits(audit, out, tmp_path / "restored", only)
        assert files(tmp_path) == before


def test_fields_that_a_record_lost_since_are_missed(tmp_path: Path) -> None:
    """Guards: the last field of a record taken for one that the run had added."""
    parsed = [parse_record(LINE, f"in:{number}", FORM, None) for number in (1, 2)]
    edits: list[list[Edit]] = [[Edit(1, "mark", 0.5)], []]
    audit, out = written(
        tmp_path, [edited(*one, i, ["noise_flag"]) for i, one in enumerate(zip(parsed, edits, strict=True), 1)]
    )
    out.write_bytes(out.read_bytes().replace(b',"noise_flag":[0,0,0]', b""))
    with pytest.raises(RecordError, match=r"out\.jsonl:2: is not the line that the audit tells of"):
        undo_edits(audit, out, tmp_path / "restored")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda edits: [edits[1], edits[2], edits[0]], r"audit\.jsonl:3: tells of line 1 of the output after line 3"),
        (lambda edits: [edits[0], edits[0], *edits[1:]], r'"position" 1 is there twice for line 1'),
        (lambda edits: [{**edits[0], "position": 3}, *edits[1:]], r'"position" is 3, and the record has 3 items'),
        (lambda edits: [{**edits[0], "position": True}, *edits[1:]], r'"position" is a boolean'),
        (lambda edits: [{**edits[0], "action": "eat"}, *edits[1:]], r'"action" is "eat"'),
        (lambda edits: [{**edits[0], "noise_probability": 3}, *edits[1:]], r'"noise_probability" is 3, no probability'),
        (lambda edits: [{k: v for k, v in edits[0].items() if k != "undo"}], r"does not hold the line that was edited"),
        (lambda edits: [edits[2], *edits[1:]], r'"position" 2 is there twice for line 3'),
        (lambda edits: [["items"]], r"audit\.jsonl:1: a list where an object should be"),
        (lambda edits: with_undo(edits, line="{}"), r"contradicts itself"),
        (lambda edits: with_undo(edits, line='{"items": 3}'), r"contradicts itself"),
        (lambda edits: with_undo(edits, line="["), r"audit\.jsonl:1: not JSON"),
        (lambda edits: with_undo(edits, parallel=[["no"]]), r"contradicts itself"),
        (lambda edits: with_undo(edits, parallel=["stars"]), r"has a name that is no string"),
        (lambda edits: with_undo(edits, titles_field="user_id"), r"contradicts itself"),
        (lambda edits: with_undo(edits, added=["x"]), r"is not the line that the audit tells of"),
    ],
)  # fmt: skip
def test_an_audit_that_is_none_is_refused_in_one_sentence(tmp_path: Path, change: Any, told: str) -> None:
    """Guards: a traceback, or a wrong file, of an audit that somebody has edited or made up."""
    audit, out = small_run(tmp_path)
    lines = change([json.loads(line) for line in audit.read_bytes().splitlines()])
    audit.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = files(tmp_path)
    with pytest.raises(Llm4dsrError, match=told):
        undo_edits(audit, out, tmp_path / "restored")
    assert files(tmp_path) == before


def with_undo(edits: list[dict[str, Any]], **changes: Any) -> list[Mapping[str, Any]]:
    return [{**edits[0], "undo": {**edits[0]["undo"], **changes}}, *edits[1:]]


def test_an_edit_that_is_not_in_the_audit_cannot_be_taken_back(tmp_path: Path) -> None:
    """Guards: a list of another audit, of which half is taken back in silence."""
    audit, out = small_run(tmp_path)
    with pytest.raises(OptionError, match="`only` names item 0 of line 1, of which the audit has no edit"):
        undo_edits(audit, out, tmp_path / "restored", {(1, 1), (1, 0)})
    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize("only", [[2], 2, ["1 1"], "11", [(1,)], [(1, 1, 1)], [(1, "1")], [(1, 1.0)], [None]], ids=repr)
def test_what_names_no_places_is_told_of_by_its_argument(tmp_path: Path, only: Any) -> None:
    """Guards: a TypeError about an int that nobody has unpacked, and a float that is taken for no edit of the audit."""
    audit, out = small_run(tmp_path)
    with pytest.raises(OptionError, match=r"`only` is .*, and not a list of places: give pairs of the line"):
        undo_edits(audit, out, tmp_path / "restored", only)
    assert not (tmp_path / "restored").exists()


def test_places_may_be_of_any_integers(tmp_path: Path) -> None:
    """Guards: places of a data frame, or of JSON, refused because they are no tuples of int."""
    audit, out = small_run(tmp_path)
    only: Any = [[1, 1], np.array([3, 0])]
    assert undo_edits(audit, out, tmp_path / "restored", only).edits == 2


def test_a_list_may_have_comments(tmp_path: Path) -> None:
    """Guards: a title of a stranger, which the page writes as a comment, taken for an edit."""
    path = tmp_path / "list"
    path.write_text("# of edits.jsonl\n\n1 1  # The 5 # 3 Films\r\n 3\t0\n")
    assert read_places(path) == {(1, 1), (3, 0)}
    for line in ("1", "1 1 1", "1 one", "-1 1", "1,1", "1 " + "9" * 5000):
        path.write_text(f"3 0\n{line}\n")
        with pytest.raises(Llm4dsrError, match=r"list:2: names no edit: write the line of the output and"):
            read_places(path)


def test_the_audit_names_the_user_and_has_the_sequence_once_a_record(tmp_path: Path) -> None:
    """Guards: a page without users, and a sequence that is written with each of a hundred edits."""
    audit, _ = small_run(tmp_path)
    lines = [json.loads(line) for line in audit.read_bytes().splitlines()]
    assert [line["user"] for line in lines] == [7, 7, 7]
    assert ["sequence" in line for line in lines] == [True, True, False]
    with LineReader.open(audit) as reader:
        first, third = read_audit(reader)
    assert first.titles == third.titles == ["a", "b", "c"] and first.chances == [0.1, 0.101, 0.102]
    assert [edit.position for edit in third.edits] == [0, 2] and third.output_line == 3
