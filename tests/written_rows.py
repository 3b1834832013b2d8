"""Rows of logs for tests, and what becomes of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from llm4dsr_cli.console import untold
from llm4dsr_cli.records.logs.log import Log, LogOptions, open_log

IDS = st.sampled_from(
    [
        "007",
        "7",
        "1e18",
        "17850.0",
        "a b",
        "NaN",
        "0",
        "-1",
        "é",
        "6f9619ff-8b86-d011-b42d-00c04fc964ff",
        'say "x"',
        "x,y",
    ]
)
TITLES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=12)
ROWS = st.lists(st.tuples(st.sampled_from("uvw"), IDS, st.sampled_from(["1", "2.5", "1e3", "-4"]), TITLES), min_size=1)


def table(rows: list[tuple[str, ...]], **form: Any) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, **form)
    writer.writerow(["userId", "rating", "movieId", "timestamp", "title"])
    writer.writerows([user, "4", item, time, title] for user, item, time, title in rows)
    return text.getvalue().encode()


def opened(path: Path, *, catalog: bool = False, **options: Any) -> Log:
    log = open_log(path, LogOptions(**options), has_catalog=catalog)
    assert log is not None
    return log


def records(log: Log) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.records("user_id", untold)]


def written(log: Log, edit: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record) -> bytes:
    """The log after each of its records was edited."""
    changes = log.changes({"N": 'New, "one"'}.get)
    for line in list(log.records("user_id", untold)):
        after = edit(json.loads(line))
        changes.take(line, line if after == json.loads(line) else json.dumps(after).encode())
    out = io.BytesIO()
    log.file.write(out.write, changes.found())
    return out.getvalue()


def dropped(record: dict[str, Any], item: str, places: str) -> dict[str, Any]:
    kept = [i for i, one in enumerate(record["items"]) if one != item]
    lists = [name for name in ("items", "titles", places) if name in record]
    return {**record, **{name: [record[name][i] for i in kept] for name in lists}}
