"""Catalogs: fields are found by their names, and those that are kept are what each item's first line says."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import pytest
from catalog_files import TEXTS, refusal, saved, unhurried
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli.errors import CatalogError, OptionError
from llm4dsr_cli.records.catalog import Catalog


@pytest.mark.parametrize("name", TEXTS)
def test_kept_fields_are_those_of_each_items_first_line(tmp_path: Path, name: str) -> None:
    """Guards: a year beside another item's title once a line was repeated."""
    path = saved(tmp_path, name, TEXTS[name].rstrip("\n") + "\n" + TEXTS[name].rstrip("\n").splitlines()[-1] + "\n")
    catalog = Catalog.load(path, keep_fields=True)
    kept = [catalog.fields(number) for number in range(len(catalog))]
    years = {"catalog.jsonl": [None, 1998], "catalog.csv": ["1995", "1998"], "catalog.item": ["1995", "1998"]}
    assert [fields.get("year") for fields in kept] == years.get(name, [None, None])
    for (id_, title), fields in zip(catalog, kept, strict=True):
        assert {str(id_), title} <= {str(value) for value in fields.values()}
        assert fields.keys() <= catalog.field_names
    assert catalog.is_table == (not name.endswith((".jsonl", ".json")))
    assert catalog.column_types == (
        {"item_id": "token", "movie_title": "token_seq", "year": "token"} if name.endswith(".item") else {}
    )


@pytest.mark.parametrize("name", TEXTS)
def test_fields_that_were_not_kept_are_refused(tmp_path: Path, name: str) -> None:
    """Guards: a catalog that seems to say nothing of its items, where it was only not asked to keep it."""
    catalog = Catalog.load(saved(tmp_path, name, TEXTS[name]))
    assert not catalog.keeps_fields
    with pytest.raises(OptionError, match="fields were not kept: load it with `keep_fields`"):
        catalog.fields(0)
    pairs = Catalog([(1, "Heat")])
    assert pairs.keeps_fields and pairs.fields(0) == {}


@unhurried
@given(
    st.lists(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=3), st.integers() | st.text('é\n,"')
        ),
        min_size=1,
    ),
    st.integers(1, 250),
)
def test_kept_fields_equal_a_naive_reading(tmp_path_factory, more: list[dict[str, object]], n: int) -> None:
    """Guards: the fields of a neighbour, at the borders of what is kept together."""
    rows = [
        {"id": i, "title": "t", **{f"x{key}": value for key, value in more[i % len(more)].items()}} for i in range(n)
    ]
    path = tmp_path_factory.mktemp("kept") / "c.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)), "utf-8")
    catalog = Catalog.load(path, keep_fields=True)
    assert [catalog.fields(number) for number in range(n)] == rows
    columns = list({name: None for row in rows for name in row if name.strip() == name})
    cells = [[str(row.get(name, "")) for name in columns] for row in rows]
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([columns, *cells])
    catalog = Catalog.load(path.with_suffix(".csv"), keep_fields=True)
    assert [list(catalog.fields(number).values()) for number in range(n)] == cells


@pytest.mark.parametrize("name", ["catalog.jsonl", "catalog.csv"])
def test_kept_fields_take_less_memory_than_the_file_has_bytes(tmp_path: Path, name: str) -> None:
    """Guards: 72 MB for the objects of 10 MB of lines, in a run that replaces bare ids and never looks at them."""
    rows = [{"id": i, "title": f"title {i}", "price": i / 7, "brand": f"brand {i % 50}", "n": i} for i in range(4000)]
    path = tmp_path / name
    with path.open("w", newline="") as file:
        if name.endswith(".csv"):
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    sizes = []
    for keep_fields in (False, True):
        tracemalloc.start()
        catalog = Catalog.load(path, keep_fields=keep_fields)
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del catalog
    assert sizes[1] - sizes[0] < path.stat().st_size


def test_named_fields_win_over_the_usual_ones(tmp_path: Path) -> None:
    """Guards: `item_id_field` and `item_title_field` ignored because `id` and `title` exist as well."""
    fields = {"item_id_field": "asin", "item_title_field": "label"}
    for name, text in {
        "c.jsonl": '{"id": 1, "title": "wrong", "asin": "B1", "label": "right"}',
        "c.csv": "id,title,asin,label\n1,wrong,B1,right\n",
        "c.item": "id:token\ttitle:token\tasin:token\tlabel:token_seq\n1\twrong\tB1\tright\n",
    }.items():
        assert list(Catalog.load(saved(tmp_path, name, text), **fields)) == [("B1", "right")]
    path = saved(tmp_path, "d.item", "id:token\tlabel:token_seq\n1\tright\n")
    assert Catalog.load(path, item_title_field="label:token_seq").title(1) == "right"


NAMES = [
    ("item_id", "title"),
    ("itemId", "item_title"),
    ("movieId", "movie_title"),
    ("Item ID", "Title"),
    ("asin", "name"),
    ("parent_asin", "title"),
    ("news_id", "title"),
    ("product_id", "app_name"),
    ("sku", "title"),
    ("bookId", "Book-Title"),
    ("gmap_id", "name"),
    ("ID", "TITLE"),
]


BESIDE = ["", "Unnamed: 0", "rank", "index", "userId", "user_id", "rating", "genres", "valid", "category_id"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "item", "jsonl"])
@pytest.mark.parametrize(("id_name", "title_name"), NAMES)
def test_ids_and_titles_are_found_by_their_names(tmp_path: Path, kind: str, id_name: str, title_name: str) -> None:
    """Guards: the nameless index of a data frame, a rank or a user's id taken for the id, so that every title is
    another's; and a name that differs in capitals alone."""
    cells = {**{name: str(900 + n) for n, name in enumerate(BESIDE)}, title_name: "Heat", id_name: "7"}
    if kind == "jsonl":
        text = json.dumps(cells)
    else:
        mark = "," if kind == "csv" else "\t"
        text = f"{mark.join(cells)}\n{mark.join(cells.values())}\n"
    catalog = Catalog.load(saved(tmp_path, f"c.{kind}", text), keep_fields=True)
    assert list(catalog) == [("7", "Heat")]
    assert catalog.about.startswith(f'catalog {tmp_path}/c.{kind}: ids from "{id_name}", titles from "{title_name}"')


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_two_fields_that_may_hold_the_ids_are_asked_about(tmp_path: Path, kind: str) -> None:
    """Guards: the number of a row taken for the id of the item beside it."""
    rows = [{"id": str(n), "movieId": str(n + shift), "title": f"t{n}"} for n, shift in ((1, 4), (2, 50), (3, 70))]
    lines = (
        [json.dumps(row) for row in rows]
        if kind == "jsonl"
        else ["id,movieId,title", *map(",".join, map(dict.values, rows))]
    )
    path = saved(tmp_path, f"c.{kind}", "\n".join(lines))
    asked = f'c.{kind}:1: "id" and "movieId" may each hold the ids: say which does with `item_id_field`'
    assert refusal(path) == asked
    for held, wanted in (
        ({"5", "52", "73"}, "5"),
        ({"1", "2", "3", "5"}, "1"),
        ({"1", "5"}, None),
        (set(), None),
        ({"x"}, None),
    ):
        if wanted is None:
            with pytest.raises(CatalogError, match="may each hold the ids"):
                Catalog.load(path, record_ids=lambda held=held: held)
        else:
            assert Catalog.load(path, record_ids=lambda held=held: held).ids[0] == wanted
    assert Catalog.load(path, item_id_field="id").ids == ["1", "2", "3"]
    assert Catalog.load(path, item_id_field="movieId").ids == ["5", "52", "73"]


def test_unknown_fields_by_name_are_refused(tmp_path: Path) -> None:
    """Guards: flags of the command line, told to somebody who calls ``Catalog.load``."""
    for name, text in (("c.csv", "asin,label\n1,a\n"), ("c.jsonl", '{"asin": 1, "label": "a"}\n{"asin": 2}')):
        assert "with `item_title_field`" in refusal(saved(tmp_path, name, text), item_id_field="asin")
        assert "with `item_id_field`" in refusal(
            saved(tmp_path, name, text), item_title_field="label", item_id_field="x"
        )
    assert 'no column "asin"' in refusal(saved(tmp_path, "c.csv", "id,title\n1,a\n"), item_id_field="asin")
    assert '"asin" is missing' in refusal(saved(tmp_path, "c.jsonl", '{"id": 1, "title": "a"}'), item_id_field="asin")
