"""Candidates: different items, each of which can take the place of an item of any kind of record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.parsing import parse_record
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.cells import value_of

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
    assert seen.numbers(record(["Heat (1995)"]).sequence("user_id")) == {0}


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
        (record(["1", "4"], catalog), {"Heat", "Ran"}),
        (record(["1", "x"], catalog), {"Heat", "Brazil"}),
        (record(["3"], catalog), {"Up"}),
        (record([{"id": "1", "title": "Heat (1995)"}, {"id": "77", "title": " Ran\n"}]), {"Heat", "Ran"}),
        (record([{"id": "1", "title": "Up"}]), {"Heat", "Up"}),
        (record([{"title": "Alien"}, {"id": "9", "title": "Nameless"}]), set()),
        (record(["4", "5"], titles=["Ran!", "Brazil"]), {"Ran", "Brazil"}),
        # An x is no id among integers.
        (record([1, 4], catalog), {"Heat", "Ran", "Brazil"}),
        (record([{"title": "Alien"}, {"id": 9, "title": "Nameless"}]), {"Brazil"}),
    ):
        assert candidates.numbers(one.sequence("user_id")) == {number[title] for title in wanted}


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


@pytest.mark.parametrize("id_", ["x1", "007", "1_0", " 7", "٧", "-0", "1.0", "9" * 5000])
def test_an_id_that_is_no_integer_does_not_become_one(tmp_path: Path, id_: str) -> None:
    """Guards: a traceback, and an id that is another item's, or nobody's, once it is a number."""
    catalog = loaded(tmp_path, f"id,title\n7,a\n{id_},b\n", "catalog.csv")
    candidates = Candidates.from_catalog(catalog)
    with pytest.raises(RecordError, match=r"^in\.jsonl:7: has integer ids, and the catalog's .* is none: give"):
        candidates.item(1, record([7], catalog), 0)
    assert candidates.item(1, record(["7"], catalog), 0) == id_


id_values = st.integers(-3, 3) | st.sampled_from(["x9", "007", "7", "-2", ""])
objects = st.one_of(
    st.fixed_dictionaries({"id": id_values | st.none(), "title": st.just("own")}),
    st.just({"title": "own"}),
)


@unhurried
@given(
    st.lists(st.tuples(st.none() | id_values.filter(lambda id_: id_ != ""), titles), max_size=8),
    st.lists(objects, min_size=1, max_size=3)
    | st.lists(st.integers(50, 60), min_size=1, max_size=3)
    | st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3),
)
def test_what_may_be_proposed_can_be_put_anywhere(items: list[tuple[Any, str]], old: list[Any]) -> None:
    """Guards: a run that ends hours in, at the first record for which the catalog's one odd id is accepted; an item of
    null, because another record's item had no id."""
    candidates = Candidates()
    for id_, title in items:
        candidates.add(title, id_)
    beside = None if isinstance(old[0], dict) else [f"own {i}" for i in range(len(old))]
    one = record(old, titles=beside)
    excluded = candidates.numbers(one.sequence("user_id"))
    misfits = candidates.misfits(one.ids)
    assert misfits <= excluded
    assert candidates.left_out == len(misfits)
    integers = any(type(id_) is int for id_ in one.ids)
    for number, id_ in enumerate(candidates.ids):
        among_integers = id_ is None or type(id_) is int or id_ in ("7", "-2")
        fits = (among_integers or not integers) and (id_ is not None or {*one.ids} == {None})
        assert (number in misfits) == (not fits)
        if number in excluded:
            continue
        for position, item in enumerate(old):
            new = candidates.item(number, one, position)
            assert type(new) is type(item)
            if isinstance(item, dict):
                kinds = {type(other) for other in one.ids if other is not None}
                assert "id" not in new or not kinds or type(new["id"]) in kinds
                assert item.get("id") is None or "id" not in new or type(new["id"]) is type(item["id"])


@pytest.mark.parametrize(("beside", "wanted"), [(1, 2), ("1", "2"), (None, "2")])
def test_an_id_of_null_becomes_one_like_the_others(tmp_path: Path, beside: Any, wanted: Any) -> None:
    """Guards: a text among integers, where the replaced item alone had no id."""
    candidates = Candidates.from_catalog(loaded(tmp_path, "id,title\n1,a\n2,b\n", "catalog.csv"))
    one = record([{"id": None, "title": "z"}, {"id": beside, "title": "y"}])
    assert candidates.item(1, one, 0) == {"id": wanted, "title": "b"}


def test_items_that_are_no_records_are_left_out_and_counted(tmp_path: Path) -> None:
    """Guards: a good record rejected for the catalog's sake, and candidates that are missing without a word."""
    catalog = loaded(tmp_path, "id,title\n1,a\nx9,b\n007,c\n2,d\n", "catalog.csv")
    candidates = Candidates.from_catalog(catalog)
    assert candidates.misfits(["1"]) == frozenset()
    assert candidates.numbers(record(["1"], catalog).sequence("user_id")) == {0}
    assert candidates.left_out == 0
    assert candidates.numbers(record([1], catalog).sequence("user_id")) == {0, 1, 2}
    assert candidates.numbers(record([{"title": "z"}, {"id": 2}], catalog).sequence("user_id")) == {1, 2, 3}
    assert candidates.left_out == 2


CELLS = "id,title,price,year,seen,brand,tags,more\n"


@pytest.mark.parametrize("name", ["catalog.csv", "catalog.tsv", "catalog.item"])
def test_a_tables_fields_have_the_types_that_the_record_has(tmp_path: Path, name: str) -> None:
    """Guards: `"price":"8.5","year":"1986"` in a column of numbers, because a table has texts only."""
    rows = [
        CELLS.strip(),
        "1,Heat,9.99,1995,True,Warner,[],",
        "2,Aliens,8.50,1986,FALSE,20th,[1; 2],{}",
        "3,Ran,8,1985.0,true,1985,[],-",
        "4,Up,,,,,,",
        "5,Alien,unknown,n/a,yes,-,none,none",
    ]
    if name.endswith(".csv"):
        text = "\n".join('"' + row.replace(",", '","') + '"' for row in rows)
    else:
        text = "\n".join(row.replace(",", "\t") for row in rows)
    catalog = loaded(tmp_path, text.replace(";", ",") + "\n", name)
    candidates = Candidates.from_catalog(catalog)
    old = {"id": 1, "title": "Heat", "price": 9.99, "year": 1995, "seen": True, "brand": "W", "tags": [3], "more": {}}
    one = record([{**old, "stars": 4}])
    found = [candidates.item(number, one, 0) for number in range(1, 5)]
    assert found == [
        {
            "id": id_,
            "title": title,
            "price": price,
            "year": year,
            "seen": seen,
            "brand": brand,
            "tags": tags,
            "more": more,
            "stars": 4,
        }
        for id_, title, price, year, seen, brand, tags, more in (
            (2, "Aliens", 8.5, 1986, False, "20th", [1, 2], {}),
            (3, "Ran", 8.0, 1985, True, "1985", [], None),
            (4, "Up", None, None, None, "", None, None),
            (5, "Alien", None, None, None, "-", None, None),
        )
    ]
    assert type(found[1]["price"]) is float
    # The empty cells of "Up" are nothing to tell of.
    assert candidates.unread == {"price": 1, "year": 1, "seen": 1, "tags": 1, "more": 2}


def test_a_field_that_is_null_in_the_old_item_has_the_type_of_the_others(tmp_path: Path) -> None:
    """Guards: a text among numbers, where the replaced item's own number was not known."""
    catalog = loaded(tmp_path, "id,title,price,brand\n1,Heat,9.99,Warner\n2,Aliens,8.5,Fox\n", "catalog.csv")
    candidates = Candidates.from_catalog(catalog)
    own = {"id": 1, "title": "Heat", "price": None, "brand": None}
    one = record([own, {**own, "price": 7}, {**own, "price": 7.5}])
    assert candidates.item(1, one, 0) == {"id": 2, "title": "Aliens", "price": 8.5, "brand": None}
    assert candidates.item(1, one, 1)["price"] == 8.5, "one item's 7 is another item's 7.5"
    assert candidates.item(1, record([{**own, "price": 7}]), 0)["price"] is None
    text = "id:token\ttitle:token_seq\tprice:float\tbrand:token\n1\tHeat\t9.99\tWarner\n2\tAliens\t8.5\tFox\n"
    typed = Candidates.from_catalog(loaded(tmp_path, text, "catalog.item"))
    assert typed.item(1, record([own]), 0) == {"id": 2, "title": "Aliens", "price": 8.5, "brand": "Fox"}
    assert typed.item(1, record([{**own, "price": 7}]), 0)["price"] == 8.5


json_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@unhurried
@given(json_values, json_values.map(json.dumps) | json_values.map(str) | st.text(), st.lists(json_values, max_size=2))
def test_a_field_never_changes_its_type(old: Any, cell: str, others: list[Any]) -> None:
    """Guards: any text that slips through as another type than the field has; numbers that JSON cannot write."""
    found = value_of(cell, [old, *others])
    known = [value for value in [old, *others] if value is not None]
    if not known:
        assert found is None
    elif isinstance(known[0], str):
        assert found == cell
    else:
        assert found is None or type(found) in {type(value) for value in known}
        assert json.loads(json.dumps(found, allow_nan=False)) == found


@unhurried
@given(st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text())
def test_what_a_table_says_of_a_value_of_that_type_is_read_as_it_is(value: Any) -> None:
    """Guards: numbers lost for their spelling: Python's, JSON's, and an integer among pandas' floats."""
    assert value_of(str(value), [value]) == value
    if not isinstance(value, str):
        for cell in (json.dumps(value), f" {value} "):
            found = value_of(cell, [value])
            assert found == value and type(found) is type(value)
    if type(value) is int:
        assert value_of(f"{value}.0", [value]) == value


@pytest.mark.parametrize(
    ("cell", "model"),
    [("007", 1), ("1_0", 1), ("٧", 1), ("1e3", 1), ("8.5", 1), ("0x1", 1), ("nan", 1.5), ("inf", 1.5), ("1e999", 1.5),
     ("1_0", 1.5), ("8,5", 1.5), ("1", True), ("yes", True), ("[NaN]", [1]), ("{}", [1]), ("['a']", [1]), ("a", None)],
)  # fmt: skip
def test_a_text_that_is_no_such_value_is_null(cell: str, model: Any) -> None:
    """Guards: an identifier that loses its zeros, and numbers that only Python reads as such."""
    assert value_of(cell, [model]) is None


@pytest.mark.parametrize("name", ["catalog.jsonl", "catalog.csv"])
def test_objects_are_not_replaced_without_the_catalogs_fields(tmp_path: Path, name: str) -> None:
    """Guards: the price and the year of the old item under the title of the new one."""
    rows = [{"id": 1, "title": "Heat", "year": 1995}, {"id": 2, "title": "Aliens", "year": 1986}]
    text = "\n".join(map(json.dumps, rows)) if name.endswith("l") else "id,title,year\n1,Heat,1995\n2,Aliens,1986\n"
    (tmp_path / name).write_text(text)
    catalog = Catalog.load(tmp_path / name)
    candidates = Candidates.from_catalog(catalog)
    old = record([{"title": "z"}, {"id": 1, "title": "Heat", "stars": 4, "year": 1995}])
    for use in (lambda: candidates.check_fields(old), lambda: candidates.item(1, old, 1)):
        with pytest.raises(OptionError, match=r'^in\.jsonl:7: .* \("year"\), .*: load the catalog with `keep_fields`$'):
            use()
    assert candidates.item(1, record([1], catalog), 0) == 2
    candidates.check_fields(record([1], catalog))
    assert candidates.item(1, record([{"id": 1, "title": "Heat", "stars": 4}]), 0) == {
        "id": 2,
        "title": "Aliens",
        "stars": 4,
    }
    assert Candidates.from_catalog(loaded(tmp_path, text, name)).item(1, old, 1) == {
        "id": 2,
        "title": "Aliens",
        "stars": 4,
        "year": 1986,
    }


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
