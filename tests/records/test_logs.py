"""Logs: any table that people hold is gathered to sequences, and comes back byte for byte where nothing is edited."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_rows import ROWS, dropped, opened, records, table, written

from llm4dsr_cli.errors import Llm4dsrError, OptionError, RecordError
from llm4dsr_cli.records.logs.columns import Columns
from llm4dsr_cli.records.logs.gathering import Interaction, gathered
from llm4dsr_cli.records.logs.log import open_log
from llm4dsr_cli.records.parsing import parse_record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.records.writer import OutputFile


@given(rows=ROWS, ending=st.sampled_from(["\n", "\r\n"]), mark=st.booleans(), quoting=st.sampled_from([0, 1]))
def test_a_csv_that_nobody_edits_keeps_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, ending: str, mark: bool, quoting: int
) -> None:
    """Guards: quotes, commas and newlines in titles, a byte order mark, CRLF, ids that look like numbers."""
    path = tmp_path_factory.mktemp("log") / "r.csv"
    data = (b"\xef\xbb\xbf" if mark else b"") + table(rows, lineterminator=ending, quoting=quoting)
    path.write_bytes(data)
    assert written(opened(path)) == data


@given(rows=ROWS, which=st.integers(0, 10))
def test_dropping_an_item_takes_its_rows_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, which: int
) -> None:
    """Guards: a row number that is off by one behind a quoted newline."""
    path = tmp_path_factory.mktemp("log") / "r.csv"
    path.write_bytes(table(rows))
    item = rows[which % len(rows)][1]
    plain = item.removesuffix(".0") if item == "17850.0" else item
    left = [row for row in rows if row[1] != item]
    assert written(opened(path), lambda record: dropped(record, plain, "rows")) == table(left)


@given(
    rows=st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abc"), st.integers(0, 4)), max_size=60),
)
def test_gathering_is_sorting_by_time_and_then_by_row(rows: list[tuple[str, str, int]]) -> None:
    """Guards: ties that change places, and a user whose rows stand apart, compared with a plain sort."""
    log = [Interaction(row, user, item, float(time)) for row, (user, item, time) in enumerate(rows)]
    users = list(dict.fromkeys(user for user, _, _ in rows))
    wanted = [
        (user, sorted((one for one in log if one.user == user), key=lambda one: (one.time, one.row))) for user in users
    ]
    assert [tuple(one) for one in gathered(lambda: log)] == wanted


def test_a_replaced_item_takes_its_row_with_its_title(tmp_path: Path) -> None:
    """Guards: the old title beside the new id, and an id that loses its quotation marks."""
    path = tmp_path / "r.csv"
    path.write_text('userId,movieId,title\nu,"1","Heat, 1995"\nu,2,Ran\n')
    out = written(opened(path), lambda record: {**record, "items": ["N", "2"], "titles": ['New, "one"', "Ran"]})
    assert out.decode() == 'userId,movieId,title\nu,"N","New, ""one"""\nu,2,Ran\n'


@pytest.mark.parametrize(
    ("name", "text", "user", "items"),
    [
        ("x.inter", "user_id:token\titem_id:token\ttimestamp:float\n1\t7\t2\n1\t8\t1\n", "1", ["8", "7"]),
        ("ratings.dat", "1::7::4::2\n1::8::4::1\n", "1", ["8", "7"]),
        ("u.data", "1\t7\t4\t2\n1\t8\t4\t1\n", "1", ["8", "7"]),
        (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n1,7,4,2020-01-02\n1,8,4,2020-01-01T05:00:00Z\n",
            "1",
            ["8", "7"],
        ),
        ("r.tsv", "user\titem\n1\t8\n1\t7\n", "1", ["8", "7"]),
        ("unnamed", "user_id:token\titem_id:token\n1\t8\n1\t7\n", "1", ["8", "7"]),
        (
            "reviews.jsonl",
            '{"asin": "v", "parent_asin": "7", "user_id": 1, "timestamp": 2, "title": "Bad", "text": "x"}\n'
            '{"asin": "w", "parent_asin": "8", "user_id": 1, "timestamp": 1, "title": "Good", "text": "y"}\n',
            "1",
            ["8", "7"],
        ),
        ("x.train.inter", "user_id:token\titem_id_list:token_seq\titem_id:token\n1\t8 7\t9\n", "1", ["8", "7", "9"]),
        ("two.inter", "user_id:token\tgenre_list:token_seq\titem_id_list:token_seq\n1\tA B\t8 7\n", "1", ["8", "7"]),
        ("row.inter", "user_id:token\titem_id:token\tgenre_list:token_seq\n1\t8\tA B\n1\t7\tA\n", "1", ["8", "7"]),
        ("behaviors.tsv", "1\tU1\t11/11/2019 9:05:58 AM\tN8 N7\tN1-0\n2\tU1\tx\tN8 N7\tN2-1\n", "U1", ["N8", "N7"]),
        ("papers.csv", 'user_id,item_ids\n1,"[8, 7]"\n', "1", ["8", "7"]),
        ("split.csv", 'user_id,item_id,item_ids\n1,9,"[8, 7]"\n', "1", ["8", "7"]),
        ("histories.csv", 'user_id,history,movie_id\n1,,9\n1,"[8, 7]",9\n', "1", ["8", "7"]),
        ("clicks.csv", 'user_id,item_id,clicked_items\n1,9,"[8, 7]"\n', "1", ["8", "7"]),
        ("rows.csv", 'id,user,purchased_items\n1,1,"[8, 7]"\n', "1", ["8", "7"]),
        ("films.csv", 'user_id,movie_id,movies\n1,9,"[8, 7]"\n', "1", ["8", "7"]),
        ("shown.csv", 'user_id,impression_id,clicks\n1,9,"[8, 7]"\n', "1", ["8", "7"]),
        ("seq.csv", 'user_id,item_id,category_ids,click_seq\n1,9,[3],"[8, 7]"\n', "1", ["8", "7"]),
        ("blank.csv", "\nuser_id,item_id\n1,8\n1,7\n", "1", ["8", "7"]),
        ("genres.csv", "user_id,item_id,genres\n1,8,\"['A', 'B']\"\n1,7,['A']\n", "1", ["8", "7"]),
        ("images.csv", "user_id,asin,title,image_ids,tags\n1,8,T,[1],['A']\n1,7,U,[],['A']\n", "1", ["8", "7"]),
    ],
)
def test_logs_are_known_by_their_names_and_columns(
    tmp_path: Path, name: str, text: str, user: str, items: list[str]
) -> None:
    """Guards: a newcomer's first command, which ended in "not JSON"; a review's title taken for the item's."""
    (tmp_path / name).write_text(text)
    log = opened(tmp_path / name, catalog=True)
    found = records(log)
    assert [(one["user_id"], one["items"]) for one in found] == [(user, items)]
    assert written(log).decode() == text


def test_a_blank_line_before_the_header_is_no_header(tmp_path: Path) -> None:
    """Guards: names of columns that were judged as an interaction, and an edit one row too late."""
    path = tmp_path / "r.csv"
    path.write_text("\n\nuser,item\nu,8\nu,7\n")
    out = written(opened(path, catalog=True), lambda record: dropped(record, "8", "rows"))
    assert out.decode() == "\n\nuser,item\nu,7\n"


def test_times_need_not_count(tmp_path: Path) -> None:
    """Guards: the remedy for a time that is none, which was refused itself."""
    path = tmp_path / "r.csv"
    path.write_text("user,item,timestamp\nu,a,5\nu,b,\n")
    with pytest.raises(RecordError, match="or none with ''"):
        records(opened(path, catalog=True))
    assert records(opened(path, catalog=True, columns=Columns(time="")))[0]["items"] == ["a", "b"]


def test_what_takes_a_place_has_its_type(tmp_path: Path) -> None:
    """Guards: text in a column of numbers, and a traceback for decimals."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "r.jsonl"
    path.write_text('{"user_id": 1, "asin": 8.0}\n{"user_id": 1, "asin": 9.0}\n')
    out = written(opened(path, catalog=True), lambda record: {**record, "items": ["7", "9"]})
    assert out.decode().splitlines()[0] == '{"user_id": 1, "asin": 7.0}'
    pq.write_table(pa.table({"user": [1], "item": pa.array([Decimal("8")])}), tmp_path / "r.parquet")
    log = opened(tmp_path / "r.parquet", catalog=True)
    (tmp_path / "o.parquet").write_bytes(written(log, lambda record: {**record, "items": ["7"]}))
    assert pq.read_table(tmp_path / "o.parquet").column("item").to_pylist() == [Decimal("7")]


def test_records_are_no_log(tmp_path: Path) -> None:
    """Guards: a record with a timestamp and an item id of its own, taken for an interaction."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"user_id": 1, "item_id": 5, "timestamp": 3, "items": [1, 2]}\n')
    assert open_log(path) is None
    path.write_text('{"user_id": 1, "item_ids": [1, 2], "item_id": 5}\n')
    assert open_log(path) is None  # whoever reads it asks which field holds the items
    with pytest.raises(RecordError, match="say which one holds the items"):
        parse_record(path.read_bytes().strip(), "in.jsonl:1", RecordFormat(), None)
    path.write_text('{"user_id": 1, "genres": ["A"], "also_bought": [7], "item_id": 5}\n')
    assert open_log(path) is not None


def test_lists_in_cells_keep_what_is_not_edited(tmp_path: Path) -> None:
    """Guards: quotes of the other kind, and a title's comma taken for the list's."""
    path = tmp_path / "papers.csv"
    path.write_text('user_id,item_ids,titles\nA,"[1,  2, 3]","[\'A, x\', ""It\'s"", \'é\\\'s\']"\n')
    log = opened(path)
    assert records(log)[0]["titles"] == ["A, x", "It's", "é's"]
    out = written(log, lambda record: dropped(record, "2", "places"))
    assert out.decode() == "user_id,item_ids,titles\nA,\"[1, 3]\",\"['A, x', 'é\\'s']\"\n"


def test_a_history_on_every_impression_is_judged_once_and_edited_everywhere(tmp_path: Path) -> None:
    """Guards: MIND, whose users' histories stand on each of their impressions."""
    path = tmp_path / "behaviors.tsv"
    path.write_text("1\tU1\tt\tN8 N7\tN1-0\n2\tU2\tt\tN7\tN1-0\n3\tU1\tt\tN8 N7\tN2-1\n4\tU3\tt\t\tN2-1\n")
    log = opened(path, catalog=True)
    assert [one["items"] for one in records(log)] == [["N8", "N7"], ["N7"]]
    out = written(log, lambda record: dropped(record, "N8", "places"))
    assert out.decode() == "1\tU1\tt\tN7\tN1-0\n2\tU2\tt\tN7\tN1-0\n3\tU1\tt\tN7\tN2-1\n4\tU3\tt\t\tN2-1\n"


def test_the_target_of_a_split_is_judged_among_the_others_and_never_written(tmp_path: Path) -> None:
    """Guards: RecBole's item_id, which is the target of its item_id_list."""
    path = tmp_path / "x.train.inter"
    text = "user_id:token\titem_id_list:token_seq\titem_id:token\nu\ta b\tc\n"
    path.write_text(text)
    log = opened(path, catalog=True)
    assert written(log, lambda record: {**record, "items": [], "places": []}).decode() == text.replace("a b", "")


def test_flags_and_probabilities_are_columns(tmp_path: Path) -> None:
    """Guards: marks of rows that stand in another order than the items; RecBole's type behind the name."""
    for name, mark, heads in (("x.inter", "\t", ["noise_score:float", "noise_flag:float"]), ("r.csv", ",", None)):
        heads = heads or ["noise_probability", "noise_flag"]
        types = [":token", ":token", ":float"] if mark == "\t" else [""] * 3
        names = [one + kind for one, kind in zip(["user_id", "item_id", "timestamp"], types, strict=True)]
        rows = [["u", "a", "2"], ["", "b", "1"], ["u", "c", "1"]]
        path = tmp_path / name
        path.write_text("".join(mark.join(row) + "\n" for row in [names, *rows]))
        log = opened(path, catalog=True)
        out = written(log, lambda record: {**record, "noise_probability": [0.25, None], "noise_flag": [1, 0]})
        wanted = [[*names, *heads], [*rows[0], "", "0"], [*rows[1], "", "0"], [*rows[2], "0.25", "1"]]
        assert out.decode() == "".join(mark.join(row) + "\n" for row in wanted)


def test_json_rows_keep_the_types_of_ids(tmp_path: Path) -> None:
    """Guards: a number that comes back as text, and digits of other fields that a parser loses."""
    path = tmp_path / "r.jsonl"
    path.write_text('{"user_id": 1, "item_id": 5, "x": 1.10}\r\n{"user_id": 1,  "item_id": 6, "x": -0}\n')
    out = written(opened(path, catalog=True), lambda record: {**record, "items": ["7", "N"]})
    assert out.decode() == '{"user_id": 1, "item_id": 7, "x": 1.10}\r\n{"user_id": 1,  "item_id": "N", "x": -0}\n'


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "no column of users, the columns are"),
        ("user,x\n1,2\n", {}, "no column of items, the columns are"),
        ("user,movieId,asin\n1,2,3\n", {}, "movieId and asin may each hold the items"),
        ("user,item\n1,2\n", {"columns": Columns(item="film")}, "no column film, the columns are"),
        ("user,item\n1,2\n", {"where": "rating >= 4"}, "`where` names 'rating'"),
        ("user,item\n1,2\n", {"where": "rating"}, "`where` has 'rating', which is no condition"),
        ("user,item\n1,2\n", {"format": "xls"}, "`format` is xls: no such format"),
        ("user,item,timestamp\n1,2,soon\n", {}, "timestamp is soon, which is neither a number nor an ISO date"),
        ("user,item,timestamp\n1,2\n", {}, "r.csv:2: 2 cells where the header has 3"),
        ('user,item\n1,"2\n3,4\n', {}, "r.csv:2: a quotation mark is never closed"),
        (
            "user,item,title\n1,2,Am\xe9lie\n".encode("latin-1"),
            {},
            "r.csv:2: not UTF-8: say what it is with `encoding`",
        ),
        ("", {}, "empty: give a file with a header and rows"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(tmp_path: Path, text: Any, options: Any, message: str) -> None:
    """Guards: a wrong column that is taken in silence, and messages without a place."""
    path = tmp_path / "r.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Llm4dsrError) as caught:
        records(opened(path, catalog=True, **options))
    assert message in str(caught.value)


@pytest.mark.parametrize("format_", [None, "csv"])
@pytest.mark.parametrize("mark", [";", "|"])
def test_a_log_with_another_separator_is_read_by_its_remedy(tmp_path: Path, mark: str, format_: str | None) -> None:
    """Guards: "say with --format what it is", said to somebody who has."""
    path = tmp_path / "my log's.csv"
    path.write_text(f"user{mark}item{mark}title\n1{mark}2{mark}Se7en, the film\n")
    with pytest.raises(OptionError) as caught:
        opened(path, format=format_)
    assert "one column alone" in caught.value.what and "`format`" not in str(caught.value)
    command = str(caught.value.remedy).partition(": ")[2]
    subprocess.run(["bash", "-c", f"set -eo pipefail; {command}"], cwd=tmp_path, check=True, timeout=60)
    assert records(opened(tmp_path / "NEW"))[0]["titles"] == ["Se7en, the film"]


@pytest.mark.parametrize(("name", "mark", "format_"), [("log.csv", "\t", "tsv"), ("log.tsv", ",", "csv")])
def test_a_log_that_is_called_otherwise_is_read_with_the_format_that_its_error_names(
    tmp_path: Path, name: str, mark: str, format_: str
) -> None:
    """Guards: a remedy that leaves people to guess among eight formats."""
    (tmp_path / name).write_text(f"user{mark}item{mark}title\n1{mark}2{mark}Heat\n")
    with pytest.raises(OptionError, match=f"read it with `format` {format_}$"):
        opened(tmp_path / name)
    assert records(opened(tmp_path / name, format=format_))[0]["titles"] == ["Heat"]


@pytest.mark.parametrize("line", ["{'items': ['Alien', 'Heat']}", "[11, 150]", '{"items": ["Alien"]}'])
def test_objects_in_a_text_file_are_no_table(tmp_path: Path, line: str) -> None:
    """Guards: "one column alone", said of a file whose twin called .jsonl is read, or told what makes lines of it."""
    for name in ("in.txt", "in.csv"):
        (tmp_path / name).write_text(f"{line}\n{line}\n")
        assert open_log(tmp_path / name) is None


def test_names_in_brackets_are_names(tmp_path: Path) -> None:
    """Guards: the columns of an SQL server, taken for a list in JSON."""
    (tmp_path / "r.csv").write_text("[user],[item]\n1,2\n")
    assert opened(tmp_path / "r.csv", catalog=True).names.item == "[item]"


@pytest.mark.parametrize("action", ["drop", "replace", "mark"])
def test_parquet_keeps_schema_metadata_and_values(tmp_path: Path, action: str) -> None:
    """Guards: types of ids, categories, times, metadata of pandas and compression that are others afterwards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "r.parquet"
    before = pa.table(
        {
            "user": pa.array(["u", "v", "u"]).dictionary_encode(),
            "item": pa.array([1, 2, 3], pa.int32()),
            "title": ["A", None, "C"],
            "when": pa.array([3, 1, 2], pa.timestamp("ms")),
            "x": [1.5, None, float("nan")],
        }
    )
    before = before.cast(before.schema.with_metadata({"k": "v"}))
    pq.write_table(before, path, compression="zstd", row_group_size=2)
    log = opened(path, columns=Columns(time="when"))
    assert [(one["user_id"], one["items"]) for one in records(log)] == [("u", ["3", "1"]), ("v", ["2"])]
    assert written(log) == path.read_bytes()
    edits: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "drop": lambda record: dropped(record, "3", "rows"),
        "replace": lambda record: {**record, "items": ["9" if one == "3" else one for one in record["items"]]},
        "mark": lambda record: {**record, "noise_flag": [int(one == "3") for one in record["items"]]},
    }
    (tmp_path / "o.parquet").write_bytes(written(log, edits[action]))
    after = pq.read_table(tmp_path / "o.parquet")
    assert after.schema.metadata == before.schema.metadata
    assert pq.ParquetFile(tmp_path / "o.parquet").metadata.row_group(0).column(1).compression == "ZSTD"
    if action == "drop":
        assert after.equals(before.slice(0, 2))
    elif action == "replace":
        assert after.column("item").to_pylist() == [1, 2, 9] and after.schema == before.schema
    else:
        assert after.column("noise_flag").to_pylist() == [0, 0, 1]
        assert after.drop_columns("noise_flag").schema == before.schema


def test_lists_of_parquet_are_sequences(tmp_path: Path) -> None:
    """Guards: a column of lists written back as text, or as a list of another type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "r.parquet"
    before = pa.table(
        {"user": ["u"], "item_ids": pa.array([[1, 2, 3]], pa.list_(pa.int16())), "titles": [["A", 'x "y"', "C"]]}
    )
    pq.write_table(before, path)
    log = opened(path)
    assert records(log)[0]["titles"] == ["A", 'x "y"', "C"]
    (tmp_path / "o.parquet").write_bytes(written(log, lambda record: dropped(record, "2", "places")))
    after = pq.read_table(tmp_path / "o.parquet")
    assert after.schema == before.schema
    assert after.to_pylist() == [{"user": "u", "item_ids": [1, 3], "titles": ["A", "C"]}]


def test_lists_beside_an_item_are_not_its_users_sequence(tmp_path: Path) -> None:
    """Guards: genres that were taken for the items, so that each row was a sequence."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"user": ["u", "u"], "item_id": [8, 7], "genres": [["A", "B"], None]}), path)
    assert [one["items"] for one in records(opened(path, catalog=True))] == [["8", "7"]]
    (tmp_path / "o.parquet").write_bytes(
        written(opened(path, catalog=True), lambda record: dropped(record, "7", "rows"))
    )
    assert pq.read_table(tmp_path / "o.parquet").to_pylist() == [{"user": "u", "item_id": 8, "genres": ["A", "B"]}]


def test_fields_of_later_rows_are_taken_for_nothing_that_nobody_named(tmp_path: Path) -> None:
    """Guards: a time that some rows lack, and a second id, which the whole log then had to have."""
    path = tmp_path / "r.jsonl"
    path.write_text(
        '{"user_id": 1, "item_id": 5}\n{"user_id": 1, "item_id": 6, "timestamp": 5, "asin": "x", "rating": 5}\n'
    )
    assert [one["items"] for one in records(opened(path, catalog=True, where="rating >= 4"))] == [["6"]]
    log = open_log(path, whole=True)
    assert log is not None and records(log)[0]["items"] == [5, 6]


def test_nested_lists_in_cells_keep_step(tmp_path: Path) -> None:
    """Guards: entries of inner lists that were counted, and cut, as if they were the list's own."""
    text = """user_id,item_ids,genres\n1,"[1, 2, 3]","[['x', 'q'], ['y'], [{'a': (1, 2)}]]"\n"""
    path = tmp_path / "r.csv"
    path.write_text(text)
    out = written(opened(path, catalog=True), lambda record: dropped(record, "2", "places"))
    assert out.decode() == text.replace("[1, 2, 3]", "[1, 3]").replace("['y'], ", "")


def test_lists_of_parquet_keep_step_whatever_is_in_them(tmp_path: Path) -> None:
    """Guards: a traceback for a list of dates, and a refusal of truths and nulls, where an item was dropped."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists: dict[str, list[Any]] = {
        "liked": [True, False, None],
        "ratings": [4.5, None, 2.0],
        "at": [datetime(2020, 1, day) for day in (1, 2, 3)],
        "day": [date(2020, 1, day) for day in (1, 2, 3)],
        "words": ["it's", 'x "y"', None],
        "genres": [["A", "B"], [], ["C"]],
    }
    table = pa.table({"user": [1], "item_ids": [[1, 2, 3]], **{name: [values] for name, values in lists.items()}})
    pq.write_table(table, tmp_path / "r.parquet")
    out = written(opened(tmp_path / "r.parquet", catalog=True), lambda record: dropped(record, "2", "places"))
    (tmp_path / "o.parquet").write_bytes(out)
    after = pq.read_table(tmp_path / "o.parquet")
    assert after.schema == table.schema
    assert after.to_pylist() == [
        {"user": 1, "item_ids": [1, 3], **{name: [values[0], values[2]] for name, values in lists.items()}}
    ]


@pytest.mark.parametrize("ending", [".csv.gz", ".csv.zst", ".jsonl.gz"])
@pytest.mark.parametrize("harm", ["stub", "cut", "flipped"])
def test_a_damaged_log_is_one_sentence(tmp_path: Path, ending: str, harm: str) -> None:
    """Guards: "interrupted", and exit code 130, for a file that was cut short."""
    rows = [{"user_id": i, "item_id": i * 7919 % 1009} for i in range(2000)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if ending.startswith(".csv"):
        text = "user_id,item_id\n" + "".join(f"{row['user_id']},{row['item_id']}\n" for row in rows)
    path = tmp_path / f"r{ending}"
    with OutputFile(str(path)) as file:
        file.write_bytes(text.encode())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data[: {"stub": 30, "cut": len(data) // 2, "flipped": len(data)}[harm]])
    with pytest.raises(Llm4dsrError, match=r"damaged or cut short|not UTF-8|not JSON|cells where"):
        records(opened(path, catalog=True))


def test_latin_1_is_read_and_written_as_it_is(tmp_path: Path) -> None:
    """Guards: a title that becomes two bytes, and one that Latin-1 cannot write."""
    path = tmp_path / "r.csv"
    path.write_bytes("user,item,title\nu,1,Amélie\nu,2,Ran\n".encode("latin-1"))
    log = opened(path, encoding="latin-1")
    assert records(log)[0]["titles"] == ["Amélie", "Ran"]
    assert written(log) == path.read_bytes()
    with pytest.raises(RecordError, match="cannot be written in latin-1"):
        written(log, lambda record: {**record, "items": ["1", "3"], "titles": ["Amélie", "千と千尋"]})


def test_a_cell_that_needs_quoting_is_refused_where_there_is_none(tmp_path: Path) -> None:
    """Guards: a tab in an id, which would shift all cells of an atomic file."""
    path = tmp_path / "x.inter"
    path.write_text("user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(RecordError, match="cannot stand in a row without quoting"):
        written(opened(path, catalog=True), lambda record: {**record, "items": ["a\tb"]})


def test_a_column_that_is_there_is_not_added_again(tmp_path: Path) -> None:
    """Guards: two columns of one name."""
    path = tmp_path / "r.csv"
    path.write_text("user,item,noise_flag\nu,a,0\n")
    with pytest.raises(OptionError, match="has a column noise_flag already"):
        written(opened(path, catalog=True), lambda record: {**record, "noise_flag": [1]})


def test_a_quote_that_never_closes_is_found_soon(tmp_path: Path) -> None:
    """Guards: minutes of reading a file to its end again and again for one mark."""
    path = tmp_path / "r.csv"
    path.write_bytes(b"user,item\n" + b'1,"2\n' + b"1,3\n" * 3_000_000)
    with pytest.raises(RecordError, match=r"r\.csv:2: a quotation mark is never closed"):
        records(opened(path, catalog=True))
