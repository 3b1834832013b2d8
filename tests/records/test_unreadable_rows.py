"""Unreadable rows: an error, or left where they are while all others are judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_rows import dropped, opened, records, written

from llm4dsr_cli.errors import RecordError

# By the name of a log: a first row to read, one that cannot be read, one more to read, and what is wrong.
LOGS: dict[str, tuple[str, list[str], str]] = {
    "short.csv": ("user_id,item_id,time", ["1,8,1", "1,7", "1,9,2"], "2 cells where the header has 3"),
    "long.csv": ("user_id,item_id,time", ["1,8,1", '1,7,"a","b"', "1,9,2"], "4 cells where the header has 3"),
    "untimed.csv": ("user_id,item_id,time", ["1,8,1", "1,7,", "1,9,2"], "time is empty"),
    "text.csv": ("user_id,item_id,time", ["1,8,1", "1,7,late", "1,9,2"], "time is late"),
    "latin.csv": ("user_id,item_id,time", ["1,8,1", "1,\udce9,1", "1,9,2"], "not UTF-8"),
    "x.inter": ("user_id:token\titem_id:token", ["1\t8", "1\t7\t7", "1\t9"], "3 cells where the header has 2"),
    "ratings.dat": ("", ["1::8::5::1", "1::7::5", "1::9::5::2"], "3 cells where the first row has 4"),
    "rows.jsonl": (
        "",
        ['{"user_id": 1, "asin": "8"}', '{"user_id": 1, "asin":', '{"user_id": 1, "asin": "9"}'],
        "not JSON",
    ),
    "lists.csv": ("user_id,item_ids", ['1,"[8, 9]"', '1,"[8, 9"', '2,"[8, 9, 3]"'], "item_ids holds no list"),
    "titles.csv": (
        "user_id,item_ids,titles",
        ["1,\"[8, 9]\",\"['A', 'B']\"", '1,"[8, 9]","[\'A\']"', "2,\"[8, 9]\",\"['A', 'B']\""],
        "1 titles for 2 items",
    ),
}


def saved(folder: Path, name: str) -> tuple[Path, list[bytes], str]:
    header, rows, wrong = LOGS[name]
    lines = [line.encode("utf-8", "surrogateescape") + b"\n" for line in ([header] if header else []) + rows]
    (folder / name).write_bytes(b"".join(lines))
    return folder / name, lines, wrong


@pytest.mark.parametrize("name", LOGS)
def test_an_unreadable_row_is_an_error_or_left_alone(tmp_path: Path, name: str) -> None:
    """Guards: one bad row of a million, for which nothing was cleaned; a bad row that is lost or told twice."""
    path, lines, wrong = saved(tmp_path, name)
    with pytest.raises(RecordError, match=wrong):
        records(opened(path))
    log = opened(path, skips=True)
    items = {item for one in records(log) for item in one["items"]}
    assert items >= {"8", "9"}
    assert "7" not in items
    assert log.judged == 2
    assert log.file.unreadable is not None
    assert log.unjudged == len(log.file.unreadable) == len(log.file.unreadable.first) == 1
    assert wrong in str(log.file.unreadable.first[0])
    assert written(opened(path, skips=True)) == b"".join(lines)
    without = written(opened(path, skips=True), lambda record: dropped(record, "8", log.places_field))
    assert lines[-2] in without
    assert without != b"".join(lines)
    assert lines[-2] in written(
        opened(path, skips=True), lambda record: {**record, "noise_flag": [0] * len(record["items"])}
    )
