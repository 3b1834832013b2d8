"""Kinds of files: what a file is that is no JSON lines, told by its first bytes and lines, and what to do about it."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llm4dsr_cli.errors import Llm4dsrError, RecordError
from llm4dsr_cli.records.json_objects import file_of, to_utf8
from llm4dsr_cli.records.shapes import interaction_fields, tabulated

# Of what is here, enough to tell any.
LONGEST_MAGIC = 32
# What the name of a catalog ends in.
CATALOG_KINDS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".item")
_PANDAS = (
    "python3 -c \"import pandas as pd; pd.{reader}('{name}').to_json('{name}.jsonl', orient='records', lines=True)\""
)


class _Kind(NamedTuple):
    magic: bytes
    name: str
    remedy: str


# First bytes, as file(1) knows them.
_KINDS = (
    _Kind(b"\x1f\x8b", "gzip data", "name it .gz, or pipe it in with gzip -dc {file}"),
    _Kind(b"\xfd7zXZ\x00", "xz data", "pipe it in with xz -dc {file}"),
    _Kind(b"BZh", "bzip2 data", "pipe it in with bzip2 -dc {file}"),
    _Kind(b"\x28\xb5\x2f\xfd", "zstd data", "pipe it in with zstd -dc {file}"),
    _Kind(b"\x04\x22\x4d\x18", "lz4 data", "pipe it in with lz4 -dc {file}"),
    _Kind(b"7z\xbc\xaf\x27\x1c", "a 7z archive", "pipe it in with 7z x -so {file}"),
    _Kind(b"PK\x03\x04", "a zip archive (or an Excel workbook)", "pipe it in with unzip -p {file}"),
    _Kind(b"PAR1", "Parquet", f"make JSON lines of it: {_PANDAS.replace('{reader}', 'read_parquet')}"),
    _Kind(b"ARROW1", "Arrow", f"make JSON lines of it: {_PANDAS.replace('{reader}', 'read_feather')}"),
    _Kind(b"FEA1", "Feather", f"make JSON lines of it: {_PANDAS.replace('{reader}', 'read_feather')}"),
    _Kind(b"Obj\x01", "Avro", "make JSON lines of it: avro-tools tojson {file} > {file}.jsonl"),
    _Kind(b"\x89HDF", "HDF5", "make JSON lines of it with the program that wrote it"),
    _Kind(b"SQLite format 3", "an SQLite database", "make JSON lines of a table with sqlite3 and json_object(...)"),
    _Kind(b"\x93NUMPY", "a numpy array", "make JSON lines of it: numpy.load, and json.dumps of each row's tolist()"),
    _Kind(b"version https://git-lfs", "a pointer of Git LFS", "fetch what it points to: git lfs pull"),
    _Kind(b"\x00\x00\xfe\xff", "UTF-32", to_utf8("{file}", "UTF-32")),
    _Kind(b"\xff\xfe\x00\x00", "UTF-32", to_utf8("{file}", "UTF-32")),
    _Kind(b"\xff\xfe", "UTF-16", to_utf8("{file}", "UTF-16")),
    _Kind(b"\xfe\xff", "UTF-16", to_utf8("{file}", "UTF-16")),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95\x8c\]}(c]")
_DELIMITERS = ("\t", "::", ",", ";", "|")
_RECBOLE = re.compile(r"\w+:(?:token|float|token_seq|float_seq)\b")
# The formats of logs that a first line tells apart, by what stands between its cells.
_FORMATS = {"::": "movielens", "\t": "tsv", ",": "csv"}


def refuse_binary(head: bytes, where: str) -> None:
    """Raise Llm4dsrError where a file's first bytes say that it is no text in UTF-8.

    Args:
        head: the first bytes, at least LONGEST_MAGIC of them where the file has so many.
        where: the file's name for messages.
    """
    file = file_of(f"{where}:1")
    for magic, name, remedy in _KINDS:
        # A magic of letters alone may begin a text, too.
        if head.startswith(magic) and (not magic.isalnum() or re.search(rb"[^\t\r\n -~]|1AY&SY", head)):
            plain = "FILE" if "'" in where or where == "stdin" else where
            if magic == b"PK\x03\x04" and where.lower().endswith((".xlsx", ".xlsm")):
                name, remedy = (
                    "an Excel workbook",
                    f"make JSON lines of it: {_PANDAS.replace('{reader}', 'read_excel')}",
                )
            raise Llm4dsrError(
                f"{name}, not {'UTF-8' if name.startswith('UTF') else 'text'}",
                where=where,
                remedy=remedy.format(file=file, name=plain),
            )
    if _PICKLE.match(head):
        raise Llm4dsrError(
            "a Python pickle, not text", where=where, remedy="make JSON lines of it with the program that wrote it"
        )
    # UTF-16 without its mark: every other byte of Latin letters and signs is 0.
    for first, encoding in ((0, "UTF-16BE"), (1, "UTF-16LE")):
        if len(head) >= 4 and not any(head[first : len(head) & ~1 : 2]) and any(head):
            raise Llm4dsrError(f"{encoding}, not UTF-8", where=where, remedy=to_utf8(file, encoding))


def format_of(line: str) -> str | None:
    """The format of a log of which this is the first line, where it is a table; None for none that is known."""
    if _RECBOLE.match(line):
        return "inter"
    return next((name for mark, name in _FORMATS.items() if mark in line), None)


def explained(error: RecordError, lines: Sequence[bytes], *, asks_format: bool = False) -> RecordError:
    """The error of an input's first line, in better words where the input is a table; else as it is.

    Args:
        lines: the input's first line, and the second if there is one.
        asks_format: whether the input would be read as a log, if its format were named.
    """
    where = error.where or ""
    texts = [line.decode("utf-8", "replace").lstrip("\ufeff") for line in lines[:2]]
    if not error.what.startswith("not JSON (") or texts[0].lstrip()[:1] in ("{", "[", "<"):
        return error
    mark = next((mark for mark in (*_DELIMITERS, " ") if mark in texts[0]), None)
    if mark is None:
        return error
    rows = [_cells(text, mark) for text in texts]
    if _RECBOLE.match(texts[0]):
        what = "not JSON but one of RecBole's atomic files"
    elif mark != " " and (interaction_fields(rows[0]) or (len(rows) > 1 and len(rows[0]) == len(rows[1]))):
        what = f"not JSON but a table ({'tabs' if mark == chr(9) else mark} between the columns)"
    else:
        return error
    if asks_format and (named := format_of(texts[0])) is not None:
        return RecordError(what, where=where, remedy=f"add `format` {named}")
    return RecordError(what, where=where, remedy=tabulated(rows[0], mark, rows[1] if len(rows) > 1 else [], where))


def in_stream(error: Llm4dsrError) -> Llm4dsrError:
    """The error of a stream that is no text, in better words where it would be read if its format were named."""
    if error.what != "Parquet, not text":
        return error
    return Llm4dsrError(error.what, where=error.where, remedy="add `format` parquet")


def for_catalog(remedy: str, path: Path) -> str:
    """The remedy for a file of records as one for a catalog, whose name says its kind, and which is no pipe."""
    own = next((end for end in reversed(path.suffixes) if end.lower() in CATALOG_KINDS), ".jsonl")
    remedy = remedy.replace("'{items: .}'", "'to_entries[] | {id: .key, title: .value}'")
    if "pipe it in with" in remedy:
        remedy = remedy.replace("pipe it in with", "unpack it:") + " > NEW"
    made = own if re.search(r"\b(iconv|unpack it|tr|csv\.writer)\b", remedy) else ".jsonl"
    return re.sub(r" > NEW$", f" > NEW{made}", remedy)


def _cells(text: str, mark: str) -> list[str]:
    if len(mark) > 1:
        return text.split(mark)
    try:
        return next(csv.reader([text], delimiter=mark), [])
    except csv.Error:  # a very long cell
        return text.split(mark)
