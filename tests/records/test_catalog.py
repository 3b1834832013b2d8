"""Catalogs: every format gives the same titles, and whatever is wrong is named with file and line."""

from __future__ import annotations

import csv
import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.errors import CatalogError, OptionError
from llm4dsr_cli.records.catalog import Catalog

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXTS = {
    "catalog.jsonl": '{"id": 5, "title": "Heat"}\n\n{"id": 6, "title": "Ronin", "year": 1998}\n',
    "catalog.json": '{"item_id": 5, "title": "Heat"}\n{"item_id": 6, "title": "Ronin"}',
    "catalog.csv": "id,year,title\n5,1995,Heat\n6,1998,Ronin\n",
    "catalog.tsv": "title\titem_id\nHeat\t5\nRonin\t6\n",
    "catalog.item": "item_id:token\tmovie_title:token_seq\tyear:token\n5\tHeat\t1995\n6\tRonin\t1998\n",
}


def saved(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def refusal(path: Path, **fields: str) -> str:
    """The error's sentence, with the folder taken out."""
    with pytest.raises(CatalogError) as caught:
        Catalog.load(path, **fields)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", TEXTS)
def test_every_format_gives_the_same_titles(tmp_path: Path, name: str, ending: str) -> None:
    """Guards: a format or its compressed form read differently from the others."""
    catalog = Catalog.load(saved(tmp_path, name + ending, TEXTS[name]))
    assert [(str(id_), title) for id_, title in catalog] == [("5", "Heat"), ("6", "Ronin")]
    assert len(catalog) == 2


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("disguise", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
def test_byte_order_marks_and_windows_line_endings_change_nothing(tmp_path: Path, name: str, disguise) -> None:
    """Guards: Excel's "CSV UTF-8", whose first column would be called "\\ufeffid"."""
    catalog = Catalog.load(saved(tmp_path, name, disguise(TEXTS[name])))
    assert list(catalog) == list(Catalog.load(saved(tmp_path, name, TEXTS[name])))


def test_ids_are_looked_up_as_text_and_kept_as_they_are(tmp_path: Path) -> None:
    """Guards: integers of records that never match a CSV file's text, and ids that change type on the way."""
    big = 2**70
    path = saved(
        tmp_path, "c.jsonl", f'{{"id": 5, "title": "a"}}\n{{"id": "x", "title": "b"}}\n{{"id": {big}, "title": "c"}}'
    )
    catalog = Catalog.load(path)
    assert catalog.ids == [5, "x", big]
    assert [type(id_) for id_ in catalog.ids] == [int, str, int]
    assert (catalog.title("5"), catalog.title(5), catalog.title(big)) == ("a", "a", "c")
    assert Catalog.load(saved(tmp_path, "c.csv", TEXTS["catalog.csv"])).title(5) == "Heat"
    with pytest.raises(KeyError):
        catalog.title(7)


def test_items_without_a_title_are_allowed(tmp_path: Path) -> None:
    """Guards: a large catalog refused for one product nobody named."""
    catalog = Catalog.load(
        saved(
            tmp_path, "c.jsonl", '{"id": 1}\n{"id": 2, "title": null}\n{"id": 3, "title": " "}\n{"id": 4, "title": "d"}'
        )
    )
    assert [title for _, title in catalog] == [None, None, None, "d"]
    assert Catalog.load(saved(tmp_path, "c.csv", "id,title\n1,\n")).title(1) is None


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
        {"id": i, "title": "t", **{f"_{key}": value for key, value in more[i % len(more)].items()}} for i in range(n)
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


@pytest.mark.parametrize("ending", ["", ".gz", ".GZ", ".Gz"])
@pytest.mark.parametrize("name", [*TEXTS, "catalog.ndjson"])
def test_an_extension_in_capitals_says_the_same(tmp_path: Path, name: str, ending: str) -> None:
    """Guards: C.CSV of an old Windows program, "not a known kind"; .ndjson, which is JSON lines by another name."""
    text = TEXTS.get(name, TEXTS["catalog.jsonl"])
    for spelled in (name, name.upper(), name.replace("c", "C", 1).replace(".c", ".C")):
        path = tmp_path / f"{spelled}{ending}"
        path.write_bytes(gzip.compress(text.encode()) if ending else text.encode())
        catalog = Catalog.load(str(path))
        assert [(str(id_), title) for id_, title in catalog] == [("5", "Heat"), ("6", "Ronin")]


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


def test_the_first_column_is_the_id_when_none_is_called_so(tmp_path: Path) -> None:
    assert list(Catalog.load(saved(tmp_path, "c.csv", "asin,name\nB1,Heat\n"))) == [("B1", "Heat")]


def test_quotation_marks_mean_nothing_to_recbole(tmp_path: Path) -> None:
    """Guards: a title that begins with a quotation mark swallowing the lines after it."""
    path = saved(tmp_path, "c.item", 'item_id:token\ttitle:token_seq\n1\t"Heroes\n2\t"Low" by Bowie\n')
    assert list(Catalog.load(path)) == [("1", '"Heroes'), ("2", '"Low" by Bowie')]


@unhurried
@given(st.lists(st.tuples(st.integers(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))))
def test_tables_written_by_python_are_read_back(tmp_path_factory, rows: list[tuple[int, str]]) -> None:
    """Guards: separators, quotation marks and newlines in titles."""
    titles = {str(id_): title if title.strip() else None for id_, title in rows}
    folder = tmp_path_factory.mktemp("tables")
    for name, dialect in (("c.csv", "excel"), ("c.tsv", "excel-tab")):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, dialect=dialect, quoting=csv.QUOTE_ALL)
            writer.writerow(["id", "title"])
            writer.writerow(["first", "first"])
            writer.writerows(titles.items())
        assert dict(Catalog.load(folder / name)) == {"first": "first", **titles}


def test_the_same_title_twice_is_harmless_another_one_is_not(tmp_path: Path) -> None:
    """Guards: the last of two titles winning in silence; line numbers off by blank or repeated lines."""
    lines = ['{"id": 5, "title": "a"}', '{"id": "5", "title": "a"}', "", '{"id": 6, "title": "b"}']
    assert Catalog.load(saved(tmp_path, "c.jsonl", "\n".join(lines))).ids == [5, 6]
    path = saved(tmp_path, "c.jsonl", "\n".join([*lines, '{"id": "6", "title": "c"}']))
    assert refusal(path) == 'c.jsonl:5: id "6" has another title in line 4: keep one of the two lines'
    path = saved(tmp_path, "c.csv", 'id,title\n1,"a\nb"\n2,c\n1,d\n')
    assert refusal(path) == 'c.csv:5: id "1" has another title in line 2: keep one of the two lines'
    with pytest.raises(CatalogError, match="id 5 has two titles"):
        Catalog([(5, "a"), (5, "b")])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "c.jsonl",
            b'{"id": 1, "title": "a"}\n{"id": 2, "title": "\xff"}',
            "c.jsonl:2: not UTF-8 (byte 21 of the line)",
        ),
        ("c.csv", b"id,title\n1,\xe9t\xe9\n", "c.csv:2: not UTF-8 (byte 3 of the line)"),
        ("c.jsonl", '{"id": 1, "title": "a"}\n{"id": ', "c.jsonl:2: not JSON ("),
        ("c.jsonl", "[1, 2]", "c.jsonl:1: a list where an object should be"),
        ("c.jsonl", '{"asin": 1, "title": "a"}', 'c.jsonl:1: "id" is missing, the fields are "asin", "title"'),
        ("c.jsonl", '{"id": 1, "name": "a"}\n', 'c.jsonl: no line has "title", the fields are "id", "name"'),
        ("c.jsonl", '{"id": 1.5, "title": "a"}', 'c.jsonl:1: "id" is a float'),
        ("c.jsonl", '{"id": true, "title": "a"}', 'c.jsonl:1: "id" is a boolean'),
        ("c.jsonl", '{"id": "", "title": "a"}', 'c.jsonl:1: "id" is empty'),
        ("c.jsonl", '{"id": 1, "title": 1984}', 'c.jsonl:1: "title" is an integer'),
        ("c.jsonl", "\n", "c.jsonl: holds no items"),
        ("c.csv", "", "c.csv: holds no items"),
        ("c.csv", "id,title\n", "c.csv: holds no items"),
        ("c.csv", "id,label\n1,a\n", 'c.csv:1: no column "title", the columns are "id", "label"'),
        ("c.csv", "title,label\na,b\n", 'c.csv:1: no column of ids, the columns are "title", "label"'),
        ("c.csv", "id,title\n1,Good, Bad\n", "c.csv:2: 3 columns where the header has 2: quote"),
        ("c.csv", "id,title\n1\n", "c.csv:2: 1 columns where the header has 2"),
        ("c.csv", "id,title\n,a\n", 'c.csv:2: "id" is empty'),
        ("c.tsv", 'id\ttitle\n1\ta\n2\t"Heroes\n3\tc\n', "c.tsv:3: not a table that can be read"),
        ("c.csv", 'id,title\n1,"Low" by Bowie\n', "c.csv:2: not a table that can be read"),
        ("c.parquet", "", 'c.parquet: not a known kind of catalog (".parquet")'),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """Guards: a traceback, or a message nobody can act on; titles cut at an unquoted comma."""
    assert refusal(saved(tmp_path, name, content)).startswith(message)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """Guards: the end of a download that broke off taken for the end of the catalog."""
    assert refusal(tmp_path / "none.csv").startswith("none.csv: no such file")
    (tmp_path / "folder.csv").mkdir()
    assert refusal(tmp_path / "folder.csv").startswith("folder.csv: cannot be read (")
    lines = "".join(json.dumps({"id": i, "title": f"title {i * i}"}) + "\n" for i in range(1000))
    path = saved(tmp_path, "c.jsonl.gz", lines)
    path.write_bytes(path.read_bytes()[:-100])
    assert "damaged or cut short gzip data" in refusal(path)
    path.write_bytes(b"no gzip")
    assert refusal(path).startswith("c.jsonl.gz:1: damaged or cut short gzip data")


def test_unknown_fields_by_name_are_refused(tmp_path: Path) -> None:
    """Guards: flags of the command line, told to somebody who calls ``Catalog.load``."""
    for name, text in (("c.csv", "asin,label\n1,a\n"), ("c.jsonl", '{"asin": 1, "label": "a"}')):
        assert "with `item_title_field`" in refusal(saved(tmp_path, name, text), item_id_field="asin")
        assert "with `item_id_field`" in refusal(
            saved(tmp_path, name, text), item_title_field="label", item_id_field="x"
        )
    assert 'no column "asin"' in refusal(saved(tmp_path, "c.csv", "id,title\n1,a\n"), item_id_field="asin")
    assert '"asin" is missing' in refusal(saved(tmp_path, "c.jsonl", '{"id": 1, "title": "a"}'), item_id_field="asin")
