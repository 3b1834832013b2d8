"""Records: untouched lines stay as they are, edited ones lose what was dropped and nothing else."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.json_lines import dumps, loads
from llm4dsr_cli.records.parsing import parse_record, record_of
from llm4dsr_cli.records.record import Record, load_catalog
from llm4dsr_cli.records.record_format import RecordFormat

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PLAIN = RecordFormat()
CATALOG = Catalog([(1, "Heat"), ("B2", "Ronin"), (3, None)])

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=6,
)
titles = text.filter(lambda title: title.strip())
ids = st.integers(-(10**25), 10**25) | text


def parse(data: Any, record_format: RecordFormat = PLAIN, catalog: Catalog | None = None) -> Record:
    line = data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False).encode()
    return parse_record(line, "in.jsonl:7", record_format, catalog)


def refusal(data: Any, record_format: RecordFormat = PLAIN, catalog: Catalog | None = None) -> str:
    with pytest.raises(RecordError) as caught:
        parse(data, record_format, catalog)
    message = str(caught.value)
    assert message.startswith("in.jsonl:7: ")
    assert caught.value.remedy
    assert "\n" not in message
    assert len(message) < 400
    return message.removeprefix("in.jsonl:7: ")


@unhurried
@given(st.dictionaries(text, values), st.lists(titles, max_size=5), st.sampled_from([None, 1, "\t"]))
def test_without_edits_the_line_comes_back_byte_for_byte(data: dict[str, Any], items: list[str], indent: Any) -> None:
    """Guards: records that no edit touches written with other spaces, escapes or numbers."""
    line = json.dumps({**data, "items": items}, indent=indent).encode()
    assert parse(line).render() == line
    assert parse(line).render(drop=[], add={}) == line
    assert parse(line).edited() == json.loads(line)


@unhurried
@given(st.data())
def test_dropping_equals_a_naive_model(data: st.DataObject) -> None:
    """Guards: positions off by one, parallel lists out of step, fields reordered, extra fields or numbers lost."""
    length = data.draw(st.integers(0, 6))

    def lists(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(of, min_size=length, max_size=length)

    shape = data.draw(st.sampled_from(["objects", "titles", "integers", "strings"]))
    objects = st.builds(
        lambda more, id_, title: {**more, "id": id_, "title": title}, st.dictionaries(text, values), ids, titles
    )
    elements = {"objects": objects, "titles": titles, "integers": st.integers(-(10**25), 10**25), "strings": text}
    fields = {"items": data.draw(lists(elements[shape])), "ratings": data.draw(lists(values))}
    with_titles = shape in ("integers", "strings")
    if with_titles:
        fields["names"] = data.draw(lists(titles))
    others = data.draw(st.dictionaries(text.filter(lambda name: name not in ("items", "ratings", "names")), values))
    record_data = dict(data.draw(st.permutations([*fields.items(), *others.items()])))
    drop = data.draw(st.sets(st.integers(0, length - 1))) if length else set()

    record_format = RecordFormat(titles_field="names" if with_titles else None, parallel_fields=("ratings",))
    record = parse(record_data, record_format)
    expected = {
        name: [v for i, v in enumerate(value) if i not in drop] if name in fields else value
        for name, value in record_data.items()
    }
    rendered = json.loads(record.render(drop))
    assert rendered == expected == record.edited(drop)
    assert list(rendered) == list(record_data)
    assert record.data == record_data
    assert len(record.ids) == len(record.titles) == length


def test_a_list_that_is_named_twice_loses_its_items_once() -> None:
    """Guards other positions dropped as well, from a list that is already shorter, and lists out of step."""
    record_format = RecordFormat(titles_field="names", parallel_fields=("names", "stars", "stars", "items"))
    record = parse({"items": [1, 2, 3, 4], "names": ["a", "b", "c", "d"], "stars": [5, 4, 3, 2]}, record_format)
    assert json.loads(record.render([1])) == {"items": [1, 3, 4], "names": ["a", "c", "d"], "stars": [5, 3, 2]}


def test_every_shape_gives_ids_and_titles() -> None:
    """Guards: strings taken for titles where a catalog knows them as ids, and the other way round."""
    objects = parse({"items": [{"id": 1, "title": "Heat", "x": 1}, {"title": "Ronin"}, {"id": "z", "title": "Ran"}]})
    assert (objects.ids, objects.titles) == ([1, None, "z"], ["Heat", "Ronin", "Ran"])
    strings = parse({"items": ["Heat", "Ronin"]})
    assert (strings.ids, strings.titles) == ([None, None], ["Heat", "Ronin"])
    looked_up = parse({"items": ["1", "B2"]}, catalog=CATALOG)
    assert (looked_up.ids, looked_up.titles) == (["1", "B2"], ["Heat", "Ronin"])
    integers = parse({"items": [1, 1]}, catalog=CATALOG)
    assert (integers.ids, integers.titles) == ([1, 1], ["Heat", "Heat"])
    parallel = parse({"i": ["a", "b"], "t": ["Heat", "Ran"]}, RecordFormat(items_field="i", titles_field="t"))
    assert (parallel.ids, parallel.titles) == (["a", "b"], ["Heat", "Ran"])
    renamed = RecordFormat(item_id_field="asin", item_title_field="name")
    assert parse({"items": [{"asin": 9, "name": "Heat", "title": "no"}]}, renamed).titles == ["Heat"]
    assert parse({"items": []}).titles == []


def test_a_missing_title_comes_from_the_next_source() -> None:
    """Guards: a catalog ignored because the record has some titles of its own, or a record overruled by it."""
    items = [{"id": 1}, {"id": "B2", "title": None}, {"id": 1, "title": "own"}]
    assert parse({"items": items}, catalog=CATALOG).titles == ["Heat", "Ronin", "own"]
    record_format = RecordFormat(titles_field="t")
    assert parse({"items": [1, 1], "t": [None, "own"]}, record_format, CATALOG).titles == ["Heat", "own"]


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30])
def test_integers_of_any_size_keep_their_value(number: int) -> None:
    """Guards: orjson reading integers beyond 64 bits as floats, and ids rounded on the way."""
    line = f'{{"user":{number},"items":[{number},7],"n":[[{number}]]}}'.encode()
    record = parse(line, RecordFormat(), Catalog([(number, "a"), (7, "b")]))
    assert record.ids == [number, 7]
    assert record.render(drop=[1]) == f'{{"user":{number},"items":[{number}],"n":[[{number}]]}}'.encode()
    assert loads(dumps(number)) == number


def test_deep_and_long_lines_survive_an_edit() -> None:
    """Guards: orjson refusing to write more than 254 levels, which it reads; limits on the length of a line."""
    deep = b'{"x":' + b"[" * 400 + b"]" * 400 + b',"items":["a","b"]}'
    assert parse(deep).render(drop=[0]) == deep.replace(b'"a",', b"")
    long = parse({"items": ["a" * 5_000_000, "b" * 5_000_000]})
    assert loads(long.render(drop=[0])) == {"items": ["b" * 5_000_000]}
    for depth in (1010, 5000):  # both parsers' limits: one sentence, not a RecursionError
        said = refusal(b'{"x":' + b"[" * depth + b"1" * 25 + b"]" * depth + b"}")
        assert "not JSON" in said or (depth == 1010 and '"items" is missing' in said)  # some Pythons read 1010 levels


def test_added_fields_come_last_and_collide_with_none() -> None:
    """Guards: an annotation that overwrites the user's own field."""
    record = parse({"items": ["a", "b"], "z": 1})
    assert record.render(add={"noise": [0.25, 1]}) == b'{"items": ["a", "b"], "z": 1,"noise":[0.25,1]}'
    assert record.render(drop={0}, add={"é": None}) == '{"items": ["b"], "z": 1,"é":null}'.encode()
    with pytest.raises(RecordError, match=r'^in\.jsonl:7: has a field "z" already: rename'):
        record.render(add={"z": 2})
    assert record.data == {"items": ["a", "b"], "z": 1}


@unhurried
@given(st.dictionaries(text, values), st.lists(titles, min_size=1, max_size=5))
def test_an_object_is_the_record_that_its_line_is(data: dict[str, Any], items: list[str]) -> None:
    """Guards: records of a program that pass through bytes for nothing, or differently than those of a file."""
    data = {**data, "items": items}
    record, parsed = record_of(data, "row 3", PLAIN, None), parse(data)
    assert (record.ids, record.titles, record.data) == (parsed.ids, parsed.titles, parsed.data)
    assert record.line is None
    assert record.edited() is data
    before = json.dumps(data)
    edited = record.edited([0])
    assert edited == {**data, "items": items[1:]} == parsed.edited([0])
    assert list(edited) == list(data)
    assert json.dumps(data) == before
    assert json.loads(record.render()) == data
    assert json.loads(record.render([0])) == json.loads(parsed.render([0]))


def test_an_object_that_is_no_record_is_told_by_its_place() -> None:
    """Guards: messages about a line that nobody wrote, and a traceback for what JSON cannot say."""
    with pytest.raises(RecordError, match=r'^row 3: "items"\[0\] has no title: give `catalog`, or titles'):
        record_of({"items": [7]}, "row 3", PLAIN, None)
    with pytest.raises(RecordError, match=r"^row 3: cannot be written as JSON \(.*\): simplify the record$"):
        record_of({"items": ["a", "b"], "x": object()}, "row 3", PLAIN, None).render([0])


def test_errors_name_arguments_and_no_flags() -> None:
    """Guards: a program that is told to use options of the command line."""
    assert refusal({"history": []}).endswith("with `items_field`")
    assert refusal({"items": 1}).endswith("with `items_field`")
    assert refusal({"items": ["a"]}, RecordFormat(titles_field="t")).endswith("leave out `titles_field`")
    assert refusal({"items": ["a"]}, RecordFormat(parallel_fields=("r",))).endswith("leave out `parallel_field`")


@unhurried
@given(st.lists(titles, min_size=1, max_size=6), st.booleans(), st.data())
def test_putting_and_dropping_equal_a_naive_model(names: list[str], beside: bool, data: st.DataObject) -> None:
    """Guards: an item put where another one was dropped, its title put elsewhere, parallel lists that move."""
    length = len(names)
    ratings = [*range(length)]
    items = [*range(length)] if beside else names
    record = parse(
        {"items": items, "r": ratings, **({"names": names} if beside else {})},
        RecordFormat(titles_field="names" if beside else None, parallel_fields=("r",)),
    )
    positions = st.sets(st.integers(0, length - 1))
    drop, put = data.draw(positions), data.draw(positions)
    rows = [(-i, f"new {i}", i) if i in put else (items[i], names[i], i) for i in range(length) if i not in drop]
    replaced = {i: (-i if beside else f"new {i}", f"new {i}") for i in put}
    found = json.loads(record.render(drop, put=replaced))
    assert found == record.edited(drop, put=replaced)
    assert found["r"] == [rating for *_, rating in rows]
    assert found["items"] == [item if beside else title for item, title, _ in rows]
    assert not beside or found["names"] == [title for _, title, _ in rows]


@pytest.mark.parametrize("position", [-1, 2])
def test_positions_that_do_not_exist_are_refused(position: int) -> None:
    """Guards: a gate's positions of another record applied in silence."""
    record = parse({"items": ["a", "b"]})
    for edit in ({"drop": [position]}, {"put": {position: ("c", "c")}}, {"drop": [0], "put": {position: ("c", "c")}}):
        with pytest.raises(IndexError):
            record.render(**edit)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"items": ["\xff"]}', "not UTF-8 (byte 13 of the line)"),
        (b'{"items": ["a"]', "not JSON ("),
        (b'{"items": ["a"], "x": 1or}', "not JSON ("),  # of which Python would warn
        (b'{"items": ["a"], "x": NaN}', "not JSON but with NaN, which JSON has not: write null: python3"),
        (b'{"items": ["\\ud800"]}', "not JSON ("),
        (b'{"items": ["\\ud800"], "x": 99999999999999999999}', "not JSON ("),
        ([1], "a list where an object should be"),
        ({}, '"items" is missing, the fields are none'),
        ({"user": 1, "history": []}, '"items" is missing, the fields are "user", "history"'),
        ({"items": {"a": 1}}, '"items" is an object'),
        ({"items": "a"}, '"items" is a string'),
        ({"items": [True]}, '"items"[0] is a boolean'),
        ({"items": [["a"]]}, '"items"[0] is a list'),
        ({"items": ["a", {"title": "b"}]}, '"items"[1] is an object, "items"[0] a string'),
        ({"items": [1]}, '"items"[0] has no title: give `catalog`, or titles in the records'),
        ({"items": [{"id": 1}]}, '"items"[0] has no title: give `catalog`, or titles in the records'),
        ({"items": [{"id": True, "title": "a"}]}, '"items"[0] has a boolean as "id"'),
        ({"items": [1.5]}, '"items"[0] has no title: give `catalog`, or titles in the records'),
    ],
)
def test_lines_of_another_shape_are_refused(data: Any, message: str) -> None:
    """Guards: tracebacks, and items read as what they are not."""
    assert refusal(data).startswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"items": ["a", 1]}, '"items"[1] is an integer, "items"[0] a string'),
        ({"items": [{"x": 1}]}, '"items"[0] has neither "title" nor "id"'),
        ({"items": [{"id": 1, "item_id": 7}]}, 'its items have "id" and "item_id", each of which may be the id: say'),
    ],
)
def test_items_that_a_catalog_cannot_be_asked_about_are_refused(data: Any, message: str) -> None:
    """Guards: a row's number looked up for the item's id, so that every title is another's."""
    assert refusal(data, catalog=CATALOG).startswith(message)


N, A = "no title", "not in the catalog"


@pytest.mark.parametrize(
    ("data", "form", "catalog", "titles", "lacks"),
    [
        ([1, 77, 3], PLAIN, CATALOG, ["Heat", None, None], {1: A, 2: N}),
        (["1", "77", "B2"], PLAIN, CATALOG, ["Heat", None, "Ronin"], {1: A}),
        ([1, None, 1.0], PLAIN, CATALOG, ["Heat", None, None], {1: N, 2: A}),
        (
            [{"id": 1}, {"id": 77}, {"title": "own"}, {"x": 1}],
            PLAIN,
            CATALOG,
            ["Heat", None, "own", None],
            {1: A, 3: N},
        ),
        ([{"id": 77, "title": "own"}, {"id": 1, "title": "nan"}], PLAIN, CATALOG, ["own", "Heat"], {}),
        ([{"id": 1, "title": "a"}, {"id": 2}], PLAIN, None, ["a", None], {1: N}),
        ([{"id": 1, "title": None}], PLAIN, None, [None], {0: N}),
        ([{"id": 1, "title": 1984}, {"id": 2, "title": 2.5}], PLAIN, None, ["1984", "2.5"], {}),
        (["Alien", 1984, 2.5], PLAIN, None, ["Alien", "1984", "2.5"], {}),
        (["a", "", " \t", None, "null", "NaN", "nan", "None", "\u200b"], PLAIN, None, ["a", *[None] * 8], None),
        ([{"item_id": 1}, {"item_id": 77}], PLAIN, CATALOG, ["Heat", None], {1: A}),
        ([{"movieId": 1, "Title": "a"}], PLAIN, None, ["a"], {}),
    ],
)
def test_an_item_that_nobody_can_name_is_left_out_of_judging(
    data: list[Any], form: RecordFormat, catalog: Catalog | None, titles: list[str | None], lacks: Any
) -> None:
    """Guards: a record refused, or thrown away, because one of its items is missing in the catalog; "nan" judged."""
    record = parse({"items": data}, form, catalog)
    assert record.titles == titles
    assert record.lacks == ({i: N for i, title in enumerate(titles) if title is None} if lacks is None else lacks)
    assert record.judged == [i for i, title in enumerate(titles) if title is not None]
    assert record.render() == json.dumps({"items": data}, ensure_ascii=False).encode()
    beside = parse({"items": [*range(len(titles))], "t": titles}, RecordFormat(titles_field="t"))
    assert beside.titles == titles


@pytest.mark.parametrize("newest_first", [False, True])
def test_padding_is_no_item_and_the_newest_comes_last(newest_first: bool) -> None:
    """Guards: padding that is judged, counted or protected as the last item; the oldest protected for the newest."""
    form = RecordFormat(padding_ids=("0", "null", "<pad>"), newest_first=newest_first)
    catalog = Catalog([(0, "[PAD]"), (1, "Heat"), (2, "Ran")])
    for items, real in (
        ([1, 2, 7, 0, 0], [0, 1, 2]),
        ([0, 0, 1], [2]),
        ([0.0, 1, None], [1]),
        (["<pad>", "0", "1"], [2]),
        ([{"id": 0}, {"id": "0", "title": "x"}, {"id": 2}], [2]),
        ([0, 0], []),
    ):
        record = parse({"items": items}, form, catalog)
        assert list(record.order) == (real[::-1] if newest_first else real)
        assert all(record.titles[i] is None and i not in record.lacks for i in range(len(items)) if i not in real)
        sequence = record.sequence("user_id")
        assert sequence.titles == [record.titles[i] for i in record.order]
        assert sequence.ids == [record.ids[i] for i in record.order]
    assert parse({"items": ["<pad>", "Heat"]}, form).order == [1]
    assert parse({"items": [0, 0]}, form).order == []
    with pytest.raises(RecordError, match="has no title: give `catalog`"):
        parse({"items": [0, 1]}, form)


@pytest.mark.parametrize(
    ("record_format", "data", "message"),
    [
        (RecordFormat(titles_field="t"), {"items": ["a"]}, '"t" is missing, the fields are "items"'),
        (RecordFormat(titles_field="t"), {"items": ["a"], "t": ["x", "y"]}, '"t" has 2 entries, "items" 1'),
        (RecordFormat(titles_field="t"), {"items": ["a"], "t": "x"}, '"t" is a string'),
        (RecordFormat(parallel_fields=("r",)), {"items": ["a"]}, '"r" is missing'),
        (RecordFormat(parallel_fields=("r", "s")), {"items": ["a"], "r": [1], "s": []}, '"s" has 0 entries, "items" 1'),
    ],
)
def test_parallel_lists_must_be_parallel(record_format: RecordFormat, data: Any, message: str) -> None:
    """Guards: ratings and timestamps that slip against their items."""
    assert refusal(data, record_format).startswith(message)


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_catalog_may_be_named_by_text_or_path(tmp_path: Path, as_path: Any) -> None:
    """Guards: `'str' object has no attribute 'suffix'` in a program that passes a name."""
    (tmp_path / "c.csv").write_text("sku,label,year\n7,Heat,1995\n")
    names = RecordFormat(item_id_field="sku", item_title_field="label")
    catalog = load_catalog(as_path(tmp_path / "c.csv"), names, keep_fields=True)
    assert catalog is not None
    assert catalog.title(7) == "Heat"
    assert catalog.fields(0) == {"sku": "7", "label": "Heat", "year": "1995"}
    assert load_catalog(None, names) is None


def test_quoted_data_is_cut_and_printable() -> None:
    """Guards: messages of megabytes, and escape sequences from strangers' data in the terminal."""
    assert "x" * 60 + '..."' in refusal({"items": [], "x" * 10_000: 1}, RecordFormat(items_field="i"))
    assert r'"\x1b[31m\n"' in refusal({"\x1b[31m\n": 1})
    assert "and 990 more" in refusal({str(i): i for i in range(1000)})


def owner(record: Record, user_field: str = "user_id") -> Hashable:
    return record.sequence(user_field).owner


def test_a_record_that_names_nobody_is_known_by_its_titles() -> None:
    """Guards a record that is another user's in a kept file than in the input, and so vouches for itself there."""
    record_format = RecordFormat()
    here = parse_record(b'{"items": ["a", "b"]}', "in.jsonl:1", record_format, None)
    there = parse_record(b'{"items": ["a", "b"]}', "scored.jsonl:7", record_format, None)
    other = parse_record(b'{"items": ["a", "c"]}', "in.jsonl:1", record_format, None)
    assert owner(here) == owner(there) != owner(other)
    named = parse_record(b'{"items": ["a"], "user_id": 5, "who": [5]}', "in.jsonl:1", record_format, None)
    assert owner(named) == "5"
    for other_export in (b'"5"', b"5.0"):
        assert owner(parse(b'{"user_id":' + other_export + b',"items":["a"]}')) == "5"
    assert owner(named, "who") == "[5]"
