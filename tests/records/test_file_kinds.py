"""Kinds of files: what is not JSON lines is named, with a command that works."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import shutil
import sqlite3
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm4dsr_cli.errors import CatalogError, Llm4dsrError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.reader import LineReader, read_records
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.record_format import RecordFormat

PLAIN = RecordFormat()
CATALOG = Catalog([(str(n), f"t{n}") for n in range(2000)])
LINES = b'{"items": ["a", "b"]}\n{"items": ["c"]}\n'


def read(
    path: Path, record_format: RecordFormat = PLAIN, on_error: Any = None, catalog: Catalog | None = CATALOG
) -> list[Record]:
    with LineReader.open(path) as reader:
        return [record for batch in read_records(reader, 64, record_format, catalog, on_error) for record in batch]


def refusal(path: Path, record_format: RecordFormat = PLAIN) -> str:
    with pytest.raises(Llm4dsrError) as caught:
        read(path, record_format)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert caught.value.remedy
    return message.removeprefix(str(path))


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("in.jsonl", LINES)
    return buffer.getvalue()


def saved_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 3)))
    return buffer.getvalue()


# The first bytes of what zstd, lz4, Parquet, Arrow and HDF5 write.
ZSTD = b"\x28\xb5\x2f\xfd\x04\x58\x59\x01\x00" + LINES
LZ4 = b"\x04\x22\x4d\x18\x64\x40\xa7\x2a\x00\x00\x80" + LINES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(LINES), "gzip data, not text: name it .gz, or pipe it in with gzip -dc "),
        (lzma.compress(LINES), "xz data, not text: pipe it in with xz -dc "),
        (bz2.compress(LINES), "bzip2 data, not text: pipe it in with bzip2 -dc "),
        (zipped(), "a zip archive (or an Excel workbook), not text: pipe it in with unzip -p "),
        (ZSTD, "zstd data, not text: pipe it in with zstd -dc "),
        (LZ4, "lz4 data, not text: pipe it in with lz4 -dc "),
        (b"PAR1\x15\x04\x15\xb6\x02\x15", "Parquet, not text: make JSON lines of it: python3 -c"),
        (b"ARROW1\x00\x00\xff\xff\xff\xff", "Arrow, not text: make JSON lines of it: python3 -c"),
        (b"\x89HDF\r\n\x1a\n\x00", "HDF5, not text"),
        (pickle.dumps({"items": [1]}), "a Python pickle, not text"),
        (saved_array(), "a numpy array, not text"),
        (LINES.decode().encode("utf-16"), "UTF-16, not UTF-8: convert it, first: iconv -f UTF-16 -t UTF-8 "),
        (LINES.decode().encode("utf-16-le"), "UTF-16LE, not UTF-8: convert it, first: iconv -f UTF-16LE -t UTF-8 "),
        (LINES.decode().encode("utf-16-be"), "UTF-16BE, not UTF-8: convert it, first: iconv -f UTF-16BE -t UTF-8 "),
        (LINES.decode().encode("utf-32"), "UTF-32, not UTF-8: convert it, first: iconv -f UTF-32 -t UTF-8 "),
    ],
)
@pytest.mark.parametrize("on_error", [None, lambda error, line: None])
def test_what_is_no_text_is_named_by_its_first_bytes(
    tmp_path: Path, content: bytes, message: str, on_error: Any
) -> None:
    """Guards: "not UTF-8: iconv -t UTF-8" for a Parquet file; a million rejects of which none is a line."""
    for name in ("in.jsonl", "in.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Llm4dsrError) as caught:
            read(tmp_path / name, on_error=on_error)
        assert str(caught.value).startswith(f"{tmp_path / name}: {message}")


def test_a_database_is_named(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("create table t (a)")
    connection.close()
    assert refusal(tmp_path / "db").startswith(": an SQLite database, not text")


def test_text_that_begins_as_another_kind_would_is_text(tmp_path: Path) -> None:
    """Guards: a first column called BZh or PAR1 taken for a compressed file."""
    for name in ("BZh", "PAR1", "FEA1", "ARROW1", "PKID"):
        (tmp_path / "c.csv").write_text(f"{name},id,title\n0,1,Heat\n")
        assert Catalog.load(tmp_path / "c.csv").title(1) == "Heat"


def run(command: str, folder: Path) -> Path:
    """What a command of a message makes, which is called NEW there."""
    subprocess.run(["bash", "-c", f"set -eo pipefail; {command}"], cwd=folder, check=True, timeout=60)
    return folder / "NEW"


def remedied(
    path: Path, record_format: RecordFormat = PLAIN, catalog: Catalog | None = CATALOG
) -> list[list[str | None]]:
    """The ids, or without a catalog the titles, of the records after the message's command was run."""
    message = refusal(path, record_format)
    start = min(at for word in (": jq ", ": python3 ", ": iconv ") if (at := message.find(word)) >= 0)
    command = message[start + 2 :]
    if not shutil.which(command.split()[0]):
        pytest.skip("a program of the remedy is not installed")
    assert command.endswith(" > NEW")
    found = read(run(command, path.parent), record_format, catalog=catalog)
    return [record.titles if catalog is None else [str(id_) for id_ in record.ids] for record in found]


INTERACTIONS = [("1", "30", "11"), ("2", "5", "7"), ("1", "100", "12"), ("1", "9", "13")]  # user, time, item
GROUPED = [["13", "11", "12"], ["7"]]


@pytest.mark.parametrize("mark", [",", "\t", ";", "|"])
@pytest.mark.parametrize(
    "names",
    [("userId", "timestamp", "movieId"), ("user_id", "time", "item_id"), ("reviewerID", "unixReviewTime", "asin")],
)
def test_a_table_of_interactions_is_grouped_by_its_remedy(tmp_path: Path, mark: str, names: tuple[str, ...]) -> None:
    """Guards: "not JSON (unexpected character)", said of ratings.csv; times compared as texts."""
    path = tmp_path / "ratings.csv"
    path.write_text("".join(f"{mark.join(row)}{mark}x\n" for row in [names, *INTERACTIONS]))
    shown = "tabs" if mark == "\t" else mark
    assert f"not JSON but a table ({shown} between the columns): group it by user: python3 -c" in refusal(path)
    assert sorted(remedied(path)) == sorted(GROUPED)


def test_recboles_interactions_are_grouped_and_its_lists_split(tmp_path: Path) -> None:
    """Guards: RecBole's types taken for a part of a name, a list of ids for one id."""
    inter = tmp_path / "ml.inter"
    names = "user_id:token\ttimestamp:float\titem_id:token"
    inter.write_text("\n".join([names, *("\t".join(row) for row in INTERACTIONS)]))
    assert "RecBole's atomic files" in refusal(inter)
    assert sorted(remedied(inter)) == sorted(GROUPED)
    lists = tmp_path / "ml.train.inter"
    lists.write_text("user_id:token\titem_id_list:token_seq\titem_id:token\n1\t11 12\t7\n2\t7\t8\n")
    with pytest.raises(Llm4dsrError) as caught:
        read(lists)
    new = run(str(caught.value.remedy).partition(": ")[2], tmp_path)
    found = read(new, RecordFormat(items_field="item_id_list"))
    assert [record.ids for record in found] == [["11", "12"], ["7"]]


def test_a_table_of_lists_becomes_json_lines(tmp_path: Path) -> None:
    """Guards: the papers' CSV of Python lists, whose titles have commas and quotation marks."""
    path = tmp_path / "train.csv"
    path.write_text('user_id,item_ids,item_titles\n1,"[11, 12]","[\'A, B\', ""It\'s""]"\n2,"[7]","[\'C\']"\n')
    assert remedied(path, RecordFormat(items_field="item_ids")) == [["11", "12"], ["7"]]
    assert remedied(path, RecordFormat(items_field="item_titles"), None) == [["A, B", "It's"], ["C"]]


REVIEWS = [
    {"user_id": u, "timestamp": int(t), "parent_asin": i, "asin": "0", "title": "Great!"} for u, t, i in INTERACTIONS
]
ONES = [{"items": [11]}, {"items": [12]}]
ALONE = [["11"], ["12"]]
BOTH = [["11", "12"]]


@pytest.mark.parametrize(
    ("text", "record_format", "words", "wanted"),
    [
        ("".join(json.dumps(one) + "\n" for one in REVIEWS), PLAIN, "the line is one interaction: group them", GROUPED),
        (json.dumps(ONES), PLAIN, "a list where an object should be", ALONE),
        (json.dumps(ONES, indent=1), PLAIN, "an array over several lines", ALONE),
        ("[11, 12]\n[7]\n", PLAIN, "a list where an object should be", [*BOTH, ["7"]]),
        ("".join(json.dumps(one, indent=2) for one in ONES), PLAIN, "an object over several lines", ALONE),
        ('{"items": [11]}{"items": [12]}', PLAIN, "not one JSON object but several", ALONE),
        ("{'items': [11], 'x': None}\n{'items': [12]}\n", PLAIN, "not JSON but Python", ALONE),
        ('{"items": [11], "x": NaN}\n{"items": [12], "x": -Infinity}\n', PLAIN, "not JSON but with NaN", ALONE),
        ('{"items": "[11, 12]"}\n', PLAIN, "the list is in a string", BOTH),
        ("{\"items\": \"['11', '12']\"}\n", PLAIN, "the list is in a string", BOTH),
        ('{"items": "11 12"}\n', PLAIN, '"items" is a string', BOTH),
        ('{"items": "11,12"}\n', PLAIN, '"items" is a string', BOTH),
        ('{"items": "[11 12]"}\n', PLAIN, '"items" is a string', BOTH),
        ('{"my items": "11|12"}\n', RecordFormat(items_field="my items"), "is a string", BOTH),
    ],
)
def test_the_remedy_makes_records_of_it(
    tmp_path: Path, text: str, record_format: RecordFormat, words: str, wanted: list[list[str]]
) -> None:
    """Guards: a remedy that is none: every command of a message is run here, on the file of which it was told."""
    for name in ("in.jsonl", "my file's.json"):
        (tmp_path / name).write_text(text)
        assert words in refusal(tmp_path / name, record_format)
        assert remedied(tmp_path / name, record_format) == wanted


def test_latin_1_is_converted_by_its_remedy(tmp_path: Path) -> None:
    """Guards: iconv -t UTF-8, which takes the text for UTF-8 and fails for every file that it is told of."""
    (tmp_path / "in.jsonl").write_bytes('{"items": ["Amélie"]}\n'.encode("latin-1"))
    assert remedied(tmp_path / "in.jsonl", catalog=None) == [["Amélie"]]


def test_a_damaged_first_line_of_json_is_no_table(tmp_path: Path) -> None:
    """Guards: a line of JSON that was cut short called a table, because there are commas in it."""
    path = tmp_path / "in.jsonl"
    for text in ('{"items": [1, 2], "x": "cut\n{"items": [1]}\n', "hello, world\n", "hello, world\nand, so, on\n"):
        path.write_text(text)
        assert ":1: not JSON (" in refusal(path)
    kept: list[str] = []
    path.write_text('userId,movieId\n1,2\n{"items": ["1"]}\n')
    assert len(read(path, on_error=lambda error, line: kept.append(error.what))) == 1
    assert kept[0].startswith("not JSON but a table") and kept[1].startswith("not JSON (")


@pytest.mark.parametrize("times", [("2019-01-30", "2019-11-01"), ("1e3", "2e3"), ("30", "100")])
def test_times_are_sorted_as_what_they_are(tmp_path: Path, times: tuple[str, str]) -> None:
    """Guards: a remedy that ends in "could not convert string to float: '2019-01-30'"."""
    path = tmp_path / "log.csv"
    path.write_text(f"user_id,item_id,timestamp\n1,11,{times[0]}\n1,12,{times[1]}\n1,13,{times[1]}\n")
    assert remedied(path) == [["11", "12", "13"]]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"items": [11, 12]},\n{"items": [7]},\n', "a comma behind it"),
        ('{"items": [11, 12]}\r{"items": [7]}\r', "carriage returns"),
        ('{"user1": [11, 12], "user2": [7]}\n', '"items" is missing'),
        ('{"user_id": {"0": 1, "1": 2}, "items": {"0": [11, 12], "1": [7]}}\n', '"items" is an object'),
    ],
)
def test_json_in_other_shapes_is_told_with_what_makes_lines_of_it(tmp_path: Path, text: str, what: str) -> None:
    """Guards: "unexpected content after document"; and pandas' own columns, told to be made a list."""
    path = tmp_path / "in.jsonl"
    path.write_text(text, newline="")
    message = refusal(path)
    assert what in message
    command = message[min(at for word in (": jq ", ": sed ", ": tr ") if (at := message.find(word)) >= 0) + 2 :]
    if not shutil.which(command.split()[0]):
        pytest.skip("a program of the remedy is not installed")
    assert [[str(id_) for id_ in record.ids] for record in read(run(command, tmp_path))] == [["11", "12"], ["7"]]


def test_lists_under_other_names_are_no_users(tmp_path: Path) -> None:
    """Guards: a record of two lists taken for a file of two users."""
    (tmp_path / "in.jsonl").write_text('{"item_ids": [11, 12], "ratings": [1, 2]}\n')
    assert refusal(tmp_path / "in.jsonl").endswith("say which one holds the items with `items_field`")


ROWS = [("id", "title"), ("1", "Heat"), ("2", "Se7en, the film"), ("3", "Alien")]


def table_text(mark: str) -> str:
    return "".join(f'{one}{mark}"{other}"\n' for one, other in ROWS)


OBJECTS = "".join(json.dumps({"id": one, "title": other}) + "\n" for one, other in ROWS[1:])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv.xz", lzma.compress(table_text(",").encode())),
        ("c.jsonl", bz2.compress(OBJECTS.encode())),
        ("c.csv", gzip.compress(table_text(",").encode())),
        ("c.csv", table_text(";").encode()),
        ("c.csv", table_text("|").encode()),
        ("c.tsv", table_text(";").encode()),
        ("c.csv", table_text(",").replace("\n", "\r").encode()),
        ("c.csv", table_text(",").encode("utf-16")),
        ("c.csv", table_text(",").replace("Alien", "Ali\xe9n").encode("latin1")),
        ("c.json", OBJECTS.replace("\n", "").encode()),
        ("c.jsonl", json.dumps([json.loads(line) for line in OBJECTS.splitlines()]).encode()),
        ("c.jsonl", json.dumps({"id": {"a": 1, "b": 2}, "title": {"a": "Heat", "b": "Se7en, the film"}}).encode()),
    ],
)
def test_a_catalogs_remedy_makes_a_file_that_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    """Guards: a remedy for records, said of a catalog: it is no pipe, and a file called NEW is of no known kind."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CatalogError) as caught:
        Catalog.load(path)
    message = str(caught.value)
    words = (": jq ", ": python3 ", ": iconv ", ": tr ", ": xz ", ": bzip2 ", ": gzip ")
    command = message[max(message.rfind(word) for word in words) + 2 :]
    if not shutil.which(command.split()[0]):
        pytest.skip("a program of the remedy is not installed")
    run(command, tmp_path)
    (made,) = tmp_path.glob("NEW*")
    found = Catalog.load(made)
    assert (found.title(1), found.title(2)) == ("Heat", "Se7en, the film")


def test_titles_without_ids_get_their_places(tmp_path: Path) -> None:
    """Guards: a remedy that makes a record of a list of titles."""
    (tmp_path / "c.json").write_text('["Heat", "Alien"]')
    with pytest.raises(CatalogError, match="to_entries"):
        Catalog.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        ("c.xlsx", zipped(), "an Excel workbook, not text: make JSON lines of it: python3 -c"),
        ("c.csv", table_text("\t").encode(), "or name it .tsv"),
        ("c.tsv", table_text(",").replace("Se7en, the", "Se7en the").encode(), "or name it .csv"),
        ("c.csv", b"sep=;\nid;title\n", "the header in line 1"),
    ],
)
def test_other_catalogs_are_told_too(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Guards: a pointer of Git LFS taken for a table of one column."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogError) as caught:
        Catalog.load(tmp_path / name)
    assert message in str(caught.value)
