"""Candidates: different items, each of which can take the place of an item of any kind of record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.record import Record, RecordFormat, parse_record
from llm4dsr_cli.replacing.candidates import Candidates

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

titles = st.sampled_from(["Heat", "Heat ", " Heat", "Blade Runner", "Blade\n Runner", "heat", "Up"])
fields = st.dictionaries(st.sampled_from(["year", "genre", "rating", "seen"]), st.integers(0, 9) | st.none())


def record(items: list[Any], catalog: Catalog | None = None, titles: list[str] | None = None) -> Record:
    line = json.dumps({"items": items, **({} if titles is None else {"names": titles})}).encode()
    return parse_record(line, "in.jsonl:7", RecordFormat(titles_field=None if titles is None else "names"), catalog)


def loaded(folder: Path, text: str, name: str = "catalog.jsonl") -> Catalog:
    (folder / name).write_text(text)
    return Catalog.load(folder / name, keep_fields=True)


@unhurried
@given(st.lists(titles | st.none(), max_size=12))
def test_a_title_stands_for_the_first_item_that_has_it(names: list[str | None]) -> None:
    """Guards: a title proposed twice under two ids, the last of two ids winning, items without a title proposed."""
    expected: dict[str, tuple[int, str]] = {}
    for id_, title in enumerate(names):
        if title is not None:
            expected.setdefault(" ".join(title.split()), (id_, title))
    candidates = Candidates.from_catalog(Catalog(enumerate(names)))
    assert list(zip(candidates.ids, candidates.titles, strict=True)) == list(expected.values())
    assert len(candidates) == len(expected)
    seen = Candidates()
    for id_, title in enumerate(names):
        if title is not None:
            seen.add_items(record([{"id": id_, "title": title}]))
    assert (seen.ids, seen.titles) == (candidates.ids, candidates.titles)


def test_an_item_seen_under_two_titles_is_one_candidate() -> None:
    """Guards: an item that takes its own place under the other spelling of its title."""
    seen = Candidates()
    for item in ({"id": 5, "title": "Heat"}, {"id": "5", "title": "Heat (1995)"}, {"id": 6, "title": "Up"}):
        seen.add_items(record([item]))
    assert (seen.ids, seen.titles) == ([5, 6], ["Heat", "Up"])
    assert seen.numbers(record(["Heat (1995)"])) == {0}


def test_titles_alone_are_candidates_without_ids() -> None:
    """Guards: an id made up where the data have none."""
    seen = Candidates()
    seen.add_items(record(["Heat", "Up", "Heat"]))
    assert (seen.ids, seen.titles) == ([None, None], ["Heat", "Up"])
    assert seen.item(1, record(["Heat", "Heat"]), 0) == "Up"
    assert seen.item(1, record([{"title": "Heat", "stars": 3}]), 0) == {"title": "Up", "stars": 3}


def test_the_items_of_a_record_are_known_by_title_and_by_id() -> None:
    """Guards: a sequence's own item proposed to it, because the record spells its title otherwise than the catalog."""
    catalog = Catalog([(1, "Heat"), (2, "Up"), (3, "Up"), (4, "Ran"), ("x", "Brazil"), (9, None)])
    candidates = Candidates.from_catalog(catalog)
    number = {title: number for number, title in enumerate(candidates.titles)}
    for one, wanted in (
        (record([1, 4], catalog), {"Heat", "Ran"}),
        (record(["1", "x"], catalog), {"Heat", "Brazil"}),
        (record([3], catalog), {"Up"}),
        (record([{"id": 1, "title": "Heat (1995)"}, {"id": 77, "title": " Ran\n"}]), {"Heat", "Ran"}),
        (record([{"id": 1, "title": "Up"}]), {"Heat", "Up"}),
        (record([{"title": "Alien"}, {"id": 9, "title": "Nameless"}]), set()),
        (record([4, 5], titles=["Ran!", "Brazil"]), {"Ran", "Brazil"}),
    ):
        assert candidates.numbers(one) == {number[title] for title in wanted}


@unhurried
@given(
    fields,
    st.lists(fields, min_size=2, max_size=3),
    st.permutations(["id", "title", "more"]),
    st.sampled_from([None, "id", "title"]),
)
def test_an_object_becomes_the_catalogs_but_for_what_tells_of_the_interaction(
    tmp_path_factory: pytest.TempPathFactory,
    own: dict[str, Any],
    known: list[dict[str, Any]],
    order: list[str],
    left_out: str | None,
) -> None:
    """Guards: the old item's genre beside the new one's title, ratings lost, fields added or in another order."""
    lines = [{"id": f"i{n}", "title": f"title {n}", **more} for n, more in enumerate(known)]
    catalog = loaded(tmp_path_factory.mktemp("catalogs"), "\n".join(map(json.dumps, lines)))
    parts = {"id": {"id": "i0"}, "title": {"title": "own"}, "more": own}
    old = {name: value for part in order if part != left_out for name, value in parts[part].items()}
    new = Candidates.from_catalog(catalog).item(1, record([{"title": "x"}, old], catalog), 1)
    known_names = {name for line in lines for name in line}
    wanted = [
        (name, lines[1][name] if name in known_names else value)
        for name, value in old.items()
        if name not in known_names or name in lines[1]
    ]
    assert list(new.items()) == wanted


def test_a_field_that_only_another_line_of_the_catalog_has_is_the_catalogs_too(tmp_path: Path) -> None:
    """Guards: a series kept from the old item, for it stands only in lines that are no candidates."""
    catalog = loaded(
        tmp_path,
        '{"id": 1, "title": "Heat"}\n{"id": 2, "title": "Heat", "series": "A"}\n{"id": 3, "cut": "long"}\n'
        '{"id": 4, "title": "Up"}\n',
    )
    old = {"id": 2, "title": "Heat", "series": "A", "cut": "short", "stars": 5}
    candidates = Candidates.from_catalog(catalog)
    assert candidates.titles == ["Heat", "Up"]
    assert candidates.item(1, record([old]), 0) == {"id": 4, "title": "Up", "stars": 5}


@pytest.mark.parametrize("name", ["catalog.jsonl", "catalog.csv"])
@pytest.mark.parametrize("items", [[1, 2], ["1", "2"], [{"id": 1}, {"id": 2}], [{"id": "1"}, {"id": 2}]], ids=str)
def test_an_id_keeps_the_type_that_the_record_has(tmp_path: Path, name: str, items: list[Any]) -> None:
    """Guards: integers that a CSV file turns into text, text that a JSON catalog turns into integers."""
    big = 2**70
    if name.endswith(".csv"):
        catalog = loaded(tmp_path, f"id,title,year\n1,a,1\n2,b,2\n{big},c,1998\n", name)
    else:
        rows = [{"id": 1, "title": "a"}, {"id": 2, "title": "b"}, {"id": big, "title": "c", "year": 1998}]
        catalog = loaded(tmp_path, "\n".join(map(json.dumps, rows)), name)
    one, candidates = record(items, catalog), Candidates.from_catalog(catalog)
    for position, old in enumerate(items):
        new = candidates.item(2, one, position)
        if isinstance(old, dict):
            old, new = old["id"], new["id"]
        assert new == type(old)(big) and type(new) is type(old)


@pytest.mark.parametrize("id_", ["x1", "007", "1_0", " 7", "٧"])
def test_an_id_that_is_no_integer_does_not_become_one(tmp_path: Path, id_: str) -> None:
    """Guards: a traceback, and an id that is another item's, or nobody's, once it is a number."""
    catalog = loaded(tmp_path, f"id,title\n7,a\n{id_},b\n", "catalog.csv")
    candidates = Candidates.from_catalog(catalog)
    with pytest.raises(RecordError, match=r"^in\.jsonl:7: has integer ids, and the catalog's .* is none: give"):
        candidates.item(1, record([7], catalog), 0)
    assert candidates.item(1, record(["7"], catalog), 0) == id_


def test_an_objects_id_is_the_candidates_under_whatever_name() -> None:
    """Guards: the new title beside the old item's id; an id of null where the new item has none."""
    form = RecordFormat(item_id_field="asin", item_title_field="name")

    def named(items: list[Any]) -> Record:
        return parse_record(json.dumps({"items": items}).encode(), "in.jsonl:7", form, None)

    seen = Candidates()
    seen.add_items(named([{"asin": "B1", "name": "Heat"}, {"asin": "B2", "name": "Up"}, {"name": "Ran"}]))
    old = named([{"stars": 4, "asin": "B1", "name": "Heat"}])
    assert seen.item(1, old, 0) == {"stars": 4, "asin": "B2", "name": "Up"}
    assert seen.item(2, old, 0) == {"stars": 4, "name": "Ran"}
    assert not seen.without_id
    seen.item(1, named([{"name": "Heat"}]), 0)
    assert not seen.without_id
    seen.item(1, named([{"name": "Heat", "sku": 7}]), 0)
    assert seen.without_id
