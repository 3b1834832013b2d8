"""Rows of logs for tests."""

from __future__ import annotations

import csv
import io
from typing import Any

from hypothesis import strategies as st

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
