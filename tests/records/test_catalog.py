"""Catalogs: every format gives the same titles, and whatever is wrong is named with file and line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from catalog_files import TEXTS, refusal, saved, unhurried
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.titles import title_of


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


def test_an_object_of_titles_by_id_is_a_catalog(tmp_path: Path) -> None:
    """Guards: id2name.json of the papers refused, on one line or over many."""
    titles = {"1": "Toy Story", "2": "Heat", "x": None, "4": 1984, "5": "nan"}
    wanted = [("1", "Toy Story"), ("2", "Heat"), ("x", None), ("4", "1984"), ("5", None)]
    for indent in (None, 4):
        for name in ("id2name.json", "id2name.json.gz", "c.jsonl"):
            catalog = Catalog.load(saved(tmp_path, name, json.dumps(titles, indent=indent)), keep_fields=True)
            assert list(catalog) == wanted
            assert "ids are the names of an object, titles its values" in catalog.about
            assert catalog.fields(0) == {}
        objects = {id_: {"title": title, "year": 1995} for id_, title in titles.items()}
        catalog = Catalog.load(saved(tmp_path, "m.json", json.dumps(objects, indent=indent)), keep_fields=True)
        assert list(catalog) == wanted
        assert catalog.fields(1) == {"title": "Heat", "year": 1995}


def test_what_is_no_title_is_none_and_numbers_are(tmp_path: Path) -> None:
    """Guards: "nan" judged as if it were a film's name; a catalog refused for a film called 1984."""
    lines = ['{"id": 1, "title": 1984}', '{"id": 2, "title": 2.5}', '{"id": 3, "title": ["A", "B"]}', '{"id": 4.0}']
    catalog = Catalog.load(saved(tmp_path, "c.jsonl", "\n".join(lines)))
    assert list(catalog) == [(1, "1984"), (2, "2.5"), (3, None), (4.0, None)]
    words = ["nan", "NaN", "None", "null", "NULL", "<NA>", "", "  ", "Nan", "none", "1984"]
    table = "id,title\n" + "".join(f"{n},{word}\n" for n, word in enumerate(words))
    found = [title for _, title in Catalog.load(saved(tmp_path, "c.csv", table))]
    assert found == [None] * 8 + ["Nan", "none", "1984"]


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("0108775015", "108775015"),
        ("1", "1.0"),
        ("1.0", "1"),
        ("1", " 1 "),
        (" 1", "1"),
        ("a1B2-c3", "A1b2-C3"),
        ("007", "7"),
        ("0", "00"),
        ("6f9619ff-8b86-d011-b42d-00c04fc964f1", "6F9619FF8B86D011B42D00C04FC964F1"),
        ("6f9619ff8b86d011b42d00c04fc964f1", "{6f9619ff-8b86-d011-b42d-00c04fc964f1}"),
    ],
)
def test_near_spellings_of_ids_are_found(known: str, asked: str) -> None:
    """Guards: a whole run of unjudged items without a word on why: a float, a lost zero, capitals, a blank."""
    catalog = Catalog([("x", "a"), (known, "b"), ("10", "c"), ("100", "d")])
    assert catalog.near([asked, "nothing like it"]) == {asked: known}


def test_a_long_field_is_read(tmp_path: Path) -> None:
    """Guards: csv's limit of 131,072 characters, told with a remedy that is none."""
    for name, mark in (("c.csv", ","), ("c.tsv", "\t")):
        path = saved(tmp_path, name, f"id{mark}text{mark}title\n1{mark}{'x' * 300_000}{mark}Heat\n")
        assert Catalog.load(path).title(1) == "Heat"


def test_rows_without_anything_are_blank(tmp_path: Path) -> None:
    """Guards: a spreadsheet's empty rows, which are written with their commas."""
    assert list(Catalog.load(saved(tmp_path, "c.csv", "id,title\n1,a\n,\n\n2,b\n,\n"))) == [("1", "a"), ("2", "b")]


@unhurried
@given(
    st.lists(st.text(st.sampled_from('ab" ,'), max_size=6), min_size=1, max_size=5),
    st.lists(st.text(st.sampled_from('ab" ,'), max_size=6), min_size=1, max_size=5),
)
def test_a_tsv_that_quotes_nothing_is_read_line_by_line(tmp_path_factory, one: list[str], other: list[str]) -> None:
    """Guards: a title that begins with a quotation mark stops the catalog, or swallows the lines after it."""
    rows = [(str(n), title) for n, title in enumerate([*one, '"Heroes', *other, 'The "'])]
    path = tmp_path_factory.mktemp("tsv") / "c.tsv"
    path.write_text("id\ttitle\n" + "".join(f"{id_}\t{title}\n" for id_, title in rows))
    found = dict(Catalog.load(path))
    assert list(found) == [id_ for id_, _ in rows]
    for id_, title in rows:
        balanced = (
            len(title) > 1
            and title.startswith('"')
            and title.endswith('"')
            and '"' not in title[1:-1].replace('""', "")
        )
        assert found[id_] == title_of(title[1:-1].replace('""', '"') if balanced else title)


def test_quotation_marks_mean_nothing_to_recbole(tmp_path: Path) -> None:
    """Guards: a title that begins with a quotation mark swallowing the lines after it."""
    path = saved(tmp_path, "c.item", 'item_id:token\ttitle:token_seq\n1\t"Heroes\n2\t"Low" by Bowie\n')
    assert list(Catalog.load(path)) == [("1", '"Heroes'), ("2", '"Low" by Bowie')]


@unhurried
@given(st.lists(st.tuples(st.integers(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))))
def test_tables_written_by_python_are_read_back(tmp_path_factory, rows: list[tuple[int, str]]) -> None:
    """Guards: separators, quotation marks and newlines in titles."""
    titles = {str(id_): title_of(title) for id_, title in rows}
    folder = tmp_path_factory.mktemp("tables")
    for name, dialect in (("c.csv", "excel"), ("c.tsv", "excel-tab")):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, dialect=dialect, quoting=csv.QUOTE_ALL)
            writer.writerow(["id", "title"])
            writer.writerow(["first", "first"])
            writer.writerows(titles.items())
        assert dict(Catalog.load(folder / name)) == {"first": "first", **titles}


def test_of_two_titles_the_first_counts_and_it_is_told(tmp_path: Path) -> None:
    """Guards: a catalog of millions refused for one product; the last of two titles winning in silence; a title that is
    missing in the first line of an item; line numbers off by blank or repeated lines."""
    lines = ['{"id": 5, "title": "a"}', '{"id": "5", "title": "a"}', "", '{"id": 6, "title": "b"}']
    catalog = Catalog.load(saved(tmp_path, "c.jsonl", "\n".join(lines)))
    assert (catalog.ids, catalog.contradictions) == ([5, 6], 0)
    more = ['{"id": "6", "title": "c"}', '{"id": 7}', '{"id": 7, "title": "d"}', '{"id": 7}', '{"id": 5, "title": "e"}']
    catalog = Catalog.load(saved(tmp_path, "c.jsonl", "\n".join([*lines, *more])))
    assert list(catalog) == [(5, "a"), (6, "b"), (7, "d")]
    assert catalog.contradictions == 2
    assert catalog.contradiction == f'{tmp_path}/c.jsonl:5: id "6" has two titles, "b" and "c"'
    catalog = Catalog.load(saved(tmp_path, "c.csv", 'id,title\n1,"a\nb"\n2,c\n1,d\n'))
    assert catalog.contradiction.startswith(f'{tmp_path}/c.csv:5: id "1" has two titles')
    pairs = Catalog([(5, "a"), (5, "b")])
    assert (list(pairs), pairs.contradiction) == ([(5, "a")], 'id 5 has two titles, "a" and "b"')


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
        ("c.jsonl", '{"number": 1, "title": "a"}', 'c.jsonl:1: "id" is missing, the fields are "number", "title"'),
        ("c.jsonl", '{"id": 1, "label": "a"}\n', 'c.jsonl: no line has "title", the fields are "id", "label"'),
        ("c.jsonl", '{"id": true, "title": "a"}', 'c.jsonl:1: "id" is a boolean'),
        ("c.jsonl", '{"id": "", "title": "a"}', 'c.jsonl:1: "id" is empty'),
        ("c.jsonl", "\n", "c.jsonl: holds no items"),
        ("c.csv", "", "c.csv: holds no items"),
        ("c.csv", "id,title\n", "c.csv: holds no items"),
        ("c.csv", "id,label\n1,a\n", 'c.csv:1: no column "title", the header is "id,label": name the columns'),
        ("c.csv", "title,label\na,b\n", 'c.csv:1: no column of ids, the header is "title,label": say which'),
        ("c.csv", "id;title\n1;a\n", 'c.csv:1: one column alone, the header is "id;title": put commas'),
        ("c.csv", "sep=;\nid;title\n1;a\n", 'c.csv:1: one column alone, the header is "sep=;": put commas'),
        ("c.csv", "# films\nid,title\n1,a\n", 'c.csv:1: one column alone, the header is "# films": put commas'),
        ("c.tsv", "id,title\n1,a\n", 'c.tsv:1: one column alone, the header is "id,title": put tabs'),
        (
            "c.item",
            "id:token,title:token_seq\n1,a",
            'c.item:1: one column alone, the header is "id:token,title:token_seq": put',
        ),
        (
            "c.tsv",
            "N1\tsports\tThe game\n",
            r'c.tsv:1: no column "title", the header is "N1\tsports\tThe game": name the columns in',
        ),
        ("c.csv", "id,title\n1,Good, Bad\n", "c.csv:2: 3 columns where the header has 2: quote"),
        ("c.csv", "id,title\n1\n", "c.csv:2: 1 columns where the header has 2"),
        ("c.csv", "id,title\n,a\n", 'c.csv:2: "id" is empty'),
        ("c.tsv", 'id\ttitle\n1\ta\n2\t"Heroes\n3\tc\td\n', "c.tsv:3: not a table that can be read"),
        ("c.csv", 'id,title\n1,"Low" by Bowie\n', "c.csv:2: not a table that can be read"),
        ("c.parquet", "", 'c.parquet: not a known kind of catalog (".parquet")'),
        ("c.parquet", b"PAR1\x15\x04\x15\x00", "c.parquet: Parquet, not text: make JSON lines of it: python3 -c"),
        ("c.csv", b"PAR1\x15\x04\x15\x00", "c.csv: Parquet, not text"),
        ("c.csv", "id,title\n1,a\n".encode("utf-16"), "c.csv: UTF-16, not UTF-8: convert it, first: iconv -f UTF-16"),
        ("c.csv", "id,title\n1,a\n".encode("utf-16-le"), "c.csv: UTF-16LE, not UTF-8: convert it"),
        (
            "c.csv",
            "id,title\n1,Am\u00e9lie\n".encode("latin-1"),
            "c.csv:2: not UTF-8 (byte 5 of the line): convert it, if",
        ),
        ("u.item", "1|Toy Story (1995)|01-Jan-1995||x|0|0\n2\n", "u.item:2: 1 cells, where the title is in the 2th"),
        ("c.json", '[\n{"id": 1, "title": "a"}\n]\n', "c.json:1: not JSON lines but an array over several lines"),
        ("c.json", '[{"id": 1, "title": "a"}]\n', "c.json:1: a list where an object should be"),
        ("c.json", '{\n"id": 1,\n"title": "a"\n}\n', "c.json:1: not JSON lines but an object over several lines"),
        ("c.json", '{"Heat": 1, "Ran": 2}\n', "c.json: an object of numbers: are these ids by title?: turn it round"),
        ("c.jsonl", "{'id': 1, 'title': 'a'}\n", "c.jsonl:1: not JSON but Python: write JSON: python3 -c"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """Guards: a traceback, or a message nobody can act on; titles cut at an unquoted comma."""
    assert refusal(saved(tmp_path, name, content)).startswith(message)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.item", "1|Toy Story (1995)|01-Jan-1995||http://x|0|0\n2|Misérables, Les|||x|0|1\n"),
        ("movies.dat", "1::Toy Story (1995)::Comedy\n\n2::Misérables, Les::Drama\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_catalogs_of_movielens_are_read_as_they_come(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    """Guards: a newcomer's first file, which has no header, other separators, and is Latin-1."""
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert list(Catalog.load(tmp_path / name)) == [("1", "Toy Story (1995)"), ("2", "Misérables, Les")]


def test_the_news_of_mind_are_a_catalog(tmp_path: Path) -> None:
    """Guards: the fourth column of a file without a header."""
    (tmp_path / "news.tsv").write_text('N1\tsports\tnfl\tThe "Brands"\tabstract\thttp://x\t[]\t[]\n')
    assert list(Catalog.load(tmp_path / "news.tsv")) == [("N1", 'The "Brands"')]


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
