"""Tables: records become rows, and rows become records, with all that they have and the types that it has."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_rows import ROWS, table

from llm4dsr_cli.console import untold
from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.records.logs.columns import Columns
from llm4dsr_cli.records.logs.log import LogOptions, open_log
from llm4dsr_cli.records.logs.table import RecordFields, Table


@given(rows=ROWS, ending=st.sampled_from([".csv", ".tsv", ".parquet"]))
def test_a_table_becomes_sequences_and_the_same_table_again(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, ending: str
) -> None:
    """Guards: ids such as 007 and 17850.0, digits, ties, repeats, empty titles, and the order of the rows."""
    folder = tmp_path_factory.mktemp("log")
    (folder / "r.csv").write_bytes(table(rows))
    log = open_log(folder / "r.csv", whole=True)
    assert log is not None
    lines = [("r", line) for line in log.records("user_id", untold)]
    again = Table(lambda: lines, RecordFields("user_id", "items", "titles"), log.names)
    with (folder / f"b{ending}").open("wb") as file:
        again.write(file.write, ending)
    back = open_log(folder / f"b{ending}", whole=True)
    assert back is not None
    names = ["userId", "rating", "movieId", "timestamp", "title"]
    before = [cells for _, cells in log.file.rows(names)]
    after = [cells for _, cells in back.file.rows(names)]
    if ending == ".parquet":  # 1e3 is a number there, and spelled 1000.0
        before, after = ([[*one[:3], float(one[3] or 0), one[4]] for one in rows] for rows in (before, after))
    assert after == before


def test_records_with_objects_and_fields_of_their_own_become_a_table(tmp_path: Path) -> None:
    """Guards: items that are objects, a field that is no list, and digits that a parser changes."""
    lines = [
        ("r", b'{"user_id": 7, "items": [{"id": 1, "title": "A"}, {"id": 2}], "country": "x", "rating": [1.10, 2]}'),
        ("r", b'{"items": [{"id": 3}], "rating": [5]}'),
        ("r", b'{"items": []}'),
    ]
    out = io.BytesIO()
    made = Table(lambda: lines, RecordFields("user_id", "items"), Columns())
    made.write(out.write, ".inter")
    assert out.getvalue().decode() == (
        "user_id:token\titem_id:token\ttitle:token_seq\tcountry:token\trating:float\n"
        "7\t1\tA\tx\t1.10\n7\t2\t\tx\t2\n\t3\t\t\t5\n"
    )
    assert made.rows_written == 3


def whole(path: Path) -> list[dict[str, Any]]:
    log = open_log(path, whole=True)
    assert log is not None
    return [json.loads(line) for line in log.records("user_id", untold)]


def as_parquet(records: list[dict[str, Any]], folder: Path) -> pa.Table:
    lines = [("r", json.dumps(one).encode()) for one in records]
    made = Table(lambda: lines, RecordFields("user_id", "items", "titles"), Columns())
    with (folder / "t.parquet").open("wb") as file:
        made.write(file.write, ".parquet")
    return pq.read_table(folder / "t.parquet")


def test_json_rows_keep_all_fields_and_types_as_sequences_and_as_parquet(tmp_path: Path) -> None:
    """Guards: nested fields that became null, fields that the first row lacks and were left out, truths and ids that
    became text, and empty texts that became null."""
    rows = [
        {"user_id": 1, "item_id": 5, "ok": True, "tags": ["a"], "more": {"x": [1, {"y": None}]}, "note": ""},
        {"user_id": 1, "item_id": 6, "ok": False, "tags": [], "more": None, "late": 2.5, "big": 2**70},
        {"user_id": 1, "item_id": 7, "ok": None, "tags": None, "note": "5", "late": 3, "big": 1},
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (record,) = whole(tmp_path / "r.jsonl")
    assert record.pop("user_id") == 1 and record.pop("rows") == [0, 1, 2]
    assert record.pop("items") == [5, 6, 7]
    assert record == {name: [row.get(name) for row in rows] for name in ("ok", "tags", "more", "note", "late", "big")}

    back = as_parquet(whole(tmp_path / "r.jsonl"), tmp_path)
    assert back.column("user_id").to_pylist() == [1, 1, 1] and back.column("item_id").to_pylist() == [5, 6, 7]
    for name in ("ok", "tags", "note", "late"):
        assert back.column(name).to_pylist() == [row.get(name) for row in rows]
    assert back.column("big").to_pylist() == [None, str(2**70), "1"]
    assert json.loads(back.column("more").to_pylist()[0]) == rows[0]["more"]


def test_parquet_becomes_sequences_and_parquet_of_the_same_types(tmp_path: Path) -> None:
    """Guards: lists written as text of lists, and numbers that came back as text."""
    before = pa.table(
        {
            "user_id": [1, 1],
            "item_id": ["a", "b"],
            "rating": [4.0, None],
            "count": [2**60, 1],
            "seen": [True, False],
            "genres": [["A", None], []],
            "weights": pa.array([[1.0, 2.5], None]),
        }
    )
    pq.write_table(before, tmp_path / "r.parquet")
    after = as_parquet(whole(tmp_path / "r.parquet"), tmp_path)
    assert {*after.column_names} == {*before.column_names}
    assert after.equals(before.select(after.column_names))


def test_times_of_parquet_are_seconds_in_records(tmp_path: Path) -> None:
    """Guards: a count of what nobody says, and dates that RecBole cannot sort by."""
    times = pa.array([1_600_000_000_500, 1_500_000_000_000], pa.timestamp("ms"))
    pq.write_table(pa.table({"user_id": ["u", "u"], "item_id": [1, 2], "at": times}), tmp_path / "r.parquet")
    (record,) = whole(tmp_path / "r.parquet")
    assert record["at"] == [1_600_000_000.5, 1_500_000_000]


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=6,
)


@given(column=st.lists(VALUES, min_size=1, max_size=4))
def test_parquet_holds_every_value_or_its_json(tmp_path_factory: pytest.TempPathFactory, column: list[Any]) -> None:
    """Guards: a column of several kinds that cannot be written, and numbers that lose digits."""
    record = {"items": [*range(len(column))], "x": column}
    found = as_parquet([record], tmp_path_factory.mktemp("t")).column("x").to_pylist()
    for value, got in zip(column, found, strict=True):
        entries = [(got, value)]
        if isinstance(got, list) and isinstance(value, list):
            entries = [*zip(got, value, strict=True)]
        for one, before in entries:
            assert (json.loads(one) if isinstance(one, str) and not isinstance(before, str) else one) == before


@pytest.mark.parametrize("depth", [300, 100_000])
def test_a_field_that_is_nested_too_deeply_is_one_sentence(tmp_path: Path, depth: int) -> None:
    """Guards: a traceback for what no table holds."""
    line = b'{"items": [1], "x": ' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(RecordError, match=r"in\.jsonl:1: "):
        Table(lambda: [("in.jsonl:1", line)], RecordFields("user_id", "items"), Columns()).write(
            io.BytesIO().write, ".csv"
        )


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ("user_id,item_id,items", {}),
        ("user_id,item_id,rows", {}),
        ("user_id,item_id,titles", {}),
        ("customer,item_id,user_id", {"columns": Columns(user="customer")}),
        ("user_id,item_id,x,x", {}),
    ],
)
def test_a_column_never_takes_the_place_of_a_sequences_own_field(tmp_path: Path, columns: str, options: Any) -> None:
    """Guards: item ids, users and row numbers that a column of the same name had replaced in silence."""
    cells = ",".join("12345"[: columns.count(",") + 1])
    (tmp_path / "r.csv").write_text(f"{columns}\n{cells}\n")
    log = open_log(tmp_path / "r.csv", LogOptions(**options), whole=True)
    assert log is not None
    with pytest.raises(OptionError, match=r"a sequence has a field .* of its own: rename the column first"):
        list(log.records("user_id", untold))


def test_a_list_log_keeps_its_ids_beside_a_column_called_items(tmp_path: Path) -> None:
    """Guards the same of lists in Parquet."""
    pq.write_table(pa.table({"user_id": [1], "item_ids": [[8, 7]], "items": [["a", "b"]]}), tmp_path / "r.parquet")
    with pytest.raises(OptionError, match="a sequence has a field items of its own"):
        whole(tmp_path / "r.parquet")


def test_lists_of_parquet_keep_the_types_of_ids(tmp_path: Path) -> None:
    """Guards: numbers that came back as text."""
    before = pa.table({"user_id": [7, 8], "item_ids": [[8, 7], [9]], "ratings": [[1.5, 2.0], [3.0]]})
    pq.write_table(before, tmp_path / "r.parquet")
    assert whole(tmp_path / "r.parquet") == [
        {"user_id": 7, "items": [8, 7], "ratings": [1.5, 2.0]},
        {"user_id": 8, "items": [9], "ratings": [3.0]},
    ]


def test_parallel_lists_in_cells_are_lists_in_records(tmp_path: Path) -> None:
    """Guards: ratings that became one text, so that a later `clean` left them out of step."""
    (tmp_path / "r.csv").write_text(
        "user_id,item_ids,ratings,tags,note\n1,\"['a', 'b']\",\"[2.50, None]\",\"['x y', '5']\",[sic\n"
    )
    (record,) = whole(tmp_path / "r.csv")
    assert record["ratings"] == [2.5, None] and record["tags"] == ["x y", "5"] and record["note"] == "[sic"
    (tmp_path / "r.inter").write_text(
        "user_id:token\titem_id_list:token_seq\trating_list:float_seq\tage:float\n1\ta b\t2.50 3\t7\n1\ta\t4\t7\n"
    )
    first, second = whole(tmp_path / "r.inter")
    assert first["rating_list"] == [2.5, 3] and second["rating_list"] == [4] and second["age"] == 7


def test_numbers_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    """Guards: lines that are no JSON, which the next command refuses."""
    table = pa.table({"user_id": [1, 1], "item_id": [1, 2], "x": [float("inf"), 1.5], "y": [[float("nan"), 1.0], None]})
    pq.write_table(table, tmp_path / "r.parquet")
    (record,) = whole(tmp_path / "r.parquet")
    assert record["x"] == [None, 1.5] and record["y"] == [[None, 1.0], None]


def test_decimals_keep_their_digits_and_are_numbers(tmp_path: Path) -> None:
    """Guards: a price that became text."""
    prices = pa.array([Decimal("1.10"), Decimal("2.00")])
    pq.write_table(pa.table({"user_id": [1, 1], "item_id": [1, 2], "price": prices}), tmp_path / "r.parquet")
    log = open_log(tmp_path / "r.parquet", whole=True)
    assert log is not None
    assert b'"price":[1.10,2.00]' in next(log.records("user_id", untold))


def test_a_nameless_column_is_a_column(tmp_path: Path) -> None:
    """Guards: a traceback for the index that pandas writes into a CSV."""
    (tmp_path / "r.csv").write_text(",user_id,item_id,title\n0,1,5,Toy Story\n1,1,6,Heat\n")
    back = as_parquet(whole(tmp_path / "r.csv"), tmp_path)
    assert back.column("").to_pylist() == [0, 1] and back.column("title").to_pylist() == ["Toy Story", "Heat"]


def test_a_number_that_no_float_holds_is_text_in_parquet(tmp_path: Path) -> None:
    """Guards: digits that are cut, and 1e400 as infinity."""
    column = ["0.12345678901234567890", "1e400", "0.5"]
    lines = [("r", f'{{"items": [1, 2, 3], "x": [{", ".join(column)}]}}'.encode())]
    made = Table(lambda: lines, RecordFields("user_id", "items"), Columns())
    with (tmp_path / "t.parquet").open("wb") as file:
        made.write(file.write, ".parquet")
    assert pq.read_table(tmp_path / "t.parquet").column("x").to_pylist() == column


def rows_of(records: list[dict[str, Any]]) -> str:
    lines = [("r", json.dumps(one).encode()) for one in records]
    out = io.BytesIO()
    Table(lambda: lines, RecordFields("user_id", "items", "titles"), Columns()).write(out.write, ".csv")
    return out.getvalue().decode()


def test_items_that_are_objects_keep_all_their_fields(tmp_path: Path) -> None:
    """Guards: ratings of items that were gone, and ids of another name that were empty."""
    items = [{"asin": "a", "name": "Alien", "rating": 5}, {"asin": "b", "name": "Heat", "seen": True}]
    assert rows_of([{"user_id": 1, "items": items}]) == (
        "user_id,item_id,title,rating,seen\n1,a,Alien,5,\n1,b,Heat,,true\n"
    )
    with pytest.raises(OptionError, match="two columns are called rating"):
        rows_of([{"user_id": 1, "items": [{"id": 1, "rating": 2}], "rating": 3}])


def test_a_list_that_is_as_long_by_chance_stays_whole() -> None:
    """Guards: tags of a user that were spread over the rows of one record, and stood whole in those of others."""
    records = [
        {"user_id": 1, "items": [1, 2], "tags": ["x", "y"], "ratings": [4, 5]},
        {"user_id": 2, "items": [1, 2, 3], "tags": ["z"], "ratings": [1, 2, 3]},
        {"user_id": 3, "items": [1], "tags": ["w"], "ratings": [3]},
    ]
    table = list(csv.DictReader(io.StringIO(rows_of(records))))
    assert [row["tags"] for row in table] == ['["x","y"]'] * 2 + ['["z"]'] * 3 + ['["w"]']
    assert [row["ratings"] for row in table] == ["4", "5", "1", "2", "3", "3"]


@pytest.mark.parametrize("rows", [["r1", "r2"], [1.5, 2], [7, 7], [-1, 0], "first"])
def test_what_numbers_no_rows_is_a_field_like_any_other(rows: Any) -> None:
    """Guards: a traceback, or items in another order, for a list that somebody else had called `rows`."""
    table = rows_of([{"user_id": 1, "items": [8, 7], "rows": rows}]).splitlines()
    assert table[0] == "user_id,item_id,rows" and [line.split(",")[1] for line in table[1:]] == ["8", "7"]
