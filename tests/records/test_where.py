"""Where: a condition means what it says, and what cannot be meant is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_rows import opened, records, written

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.records.logs.columns import Columns
from llm4dsr_cli.records.logs.log import LogOptions, open_log


def test_only_rows_that_meet_the_condition_are_judged_and_all_stay(tmp_path: Path) -> None:
    """Guards: low ratings, which are somebody's business, lost."""
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating,kind\nu,a,5,x\nu,b,2,x\nu,c,4,y\nu,d,,x\n")
    log = opened(path, catalog=True, where="rating >= 4 and kind = x")
    assert records(log)[0]["items"] == ["a"]
    assert log.unjudged == 3
    assert written(log) == path.read_bytes()


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("kind = True", ["a", "b"]),
        ("kind = true", ["a", "b"]),
        ("kind != TRUE", ["c"]),
        ("day >= 2010-01-02", ["b", "c"]),
        ("title = 'x, y'", ["a"]),
        ('title = "x < y or z"', ["b"]),
        ("rating > -1 and rating<4.5", ["b"]),
        ("rating >= '5'", ["a"]),
    ],
)
def test_a_condition_means_what_it_says(tmp_path: Path, condition: str, met: list[str]) -> None:
    """Guards rows of other users than were asked for: a truth in another case, and signs in a quoted text."""
    path = tmp_path / "r.csv"
    rows = ['u,a,5,True,2010-01-01,"x, y"', "u,b,2,true,2010-01-02,x < y or z", "u,c,-4,False,2011-01-01,z"]
    path.write_text("\n".join(["user,item,rating,kind,day,title", *rows, ""]))
    assert records(opened(path, catalog=True, where=condition))[0]["items"] == met


@pytest.mark.parametrize(
    "condition",
    [
        "rating > ",
        "rating >= 4 or day > 1",
        "rating = 4 or 5",
        "rating >= 4, rating < 5",
        "rating > 3 && rating < 5",
        "rating >> 3",
    ],
)
def test_a_condition_that_would_be_read_as_another_is_refused(tmp_path: Path, condition: str) -> None:
    """Guards a text behind a sign that is compared as it stands, whatever was meant by it."""
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating,day\nu,a,5,1\n")
    with pytest.raises(OptionError, match="which is no condition"):
        opened(path, catalog=True, where=condition)


def test_numbers_and_texts_have_no_order(tmp_path: Path) -> None:
    """Guards a date that is compared with seconds, digit by digit."""
    path = tmp_path / "r.csv"
    path.write_text("user,item,timestamp\nu,a,1262304000\n")
    with pytest.raises(OptionError, match="timestamp holds numbers, such as 1262304000"):
        records(opened(path, catalog=True, where="timestamp >= 2010-01-01"))


def test_dates_of_parquet_are_compared_as_dates(tmp_path: Path) -> None:
    """Guards: rows chosen by the digits of a count of microseconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    times = pa.array([1_262_304_000, 1_514_764_800, 1_577_836_800], pa.timestamp("s"))
    pq.write_table(pa.table({"user": [1, 1, 1], "item": [1, 2, 3], "ts": times}), tmp_path / "r.parquet")
    for condition in ("ts >= 2017-01-01", "ts >= '2017-01-01'"):
        log = opened(tmp_path / "r.parquet", catalog=True, where=condition, columns=Columns(time="ts"))
        assert [one["items"] for one in records(log)] == [["2", "3"]]


def test_a_condition_for_sequences_is_refused(tmp_path: Path) -> None:
    """Guards: a condition without effect, whatever it says."""
    (tmp_path / "in.jsonl").write_text('{"items": [1]}\n')
    with pytest.raises(OptionError, match="for logs with one interaction a row"):
        open_log(tmp_path / "in.jsonl", LogOptions(where="rating >= 4"))


def test_a_condition_on_a_field_that_only_later_rows_have(tmp_path: Path) -> None:
    """Guards: "there is no column rating", said of JSON rows whose first one has none."""
    path = tmp_path / "r.jsonl"
    path.write_text('{"user_id": 1, "item_id": 5}\n{"user_id": 1, "item_id": 6, "rating": 5}\n')
    assert [one["items"] for one in records(opened(path, catalog=True, where="rating >= 4"))] == [["6"]]


def test_a_quoted_and_joins_nothing(tmp_path: Path) -> None:
    """Guards: "Pride and Prejudice", which was split, and refused with the advice to quote it."""
    path = tmp_path / "r.csv"
    path.write_text("user,item,shop\nu,a,Pride and Prejudice\nu,b,Pride\nu,c,Tom's and Co\n")
    for condition, met in (
        ('shop = "Pride and Prejudice"', ["a"]),
        ("shop = 'Pride and Prejudice' AND item = a", ["a"]),
        ('shop = "Tom\'s and Co" and item != a', ["c"]),
    ):
        assert [one["items"] for one in records(opened(path, catalog=True, where=condition))] == [met]
