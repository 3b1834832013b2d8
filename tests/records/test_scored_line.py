"""The scored record: a suffix that can be taken off again, and probabilities that keep their scores."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4dsr_cli.cleaning.scoring import KeptScores
from llm4dsr_cli.errors import ModelError, RecordError
from llm4dsr_cli.records.parsing import parse_record, record_of
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.records.scored_line import original_line, parse_scored, parse_unscored, scored_line
from llm4dsr_cli.scores import canonical, log_odds_from, shortest_probabilities

unhurried = settings(deadline=None, max_examples=200)
SHA256 = "0123456789abcdef" * 4
FORM = RecordFormat()

texts = st.text(
    st.one_of(st.sampled_from('{}[],:"\\ né七\u2028🎬'), st.characters(exclude_categories=["Cs"])), max_size=8
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**80), 2**80), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
spaces = st.text(" \t\r", max_size=3)


@st.composite
def scored(draw: st.DrawFn) -> tuple[bytes, np.ndarray]:
    """A line as somebody may have written it, and canonical scores of its items."""
    titles = draw(st.lists(texts.map(lambda text: f"x{text}"), max_size=5))
    # Text that looks like a suffix, in values and as a field of an inner object.
    trap = ',"noise_probability":[0.5],"noise_model":"0123456789ab"}'
    others: dict[str, Any] = draw(st.dictionaries(texts.map(lambda name: f"_{name}"), values, max_size=3))
    if draw(st.booleans()):
        others["_trap"] = draw(st.sampled_from([trap, {"a": 1, "noise_probability": [0.5], "noise_model": "0" * 12}]))
    fields = [("items", titles), *others.items()]
    record = dict(draw(st.permutations(fields)))
    separators = tuple(f"{draw(spaces)}{mark}{draw(spaces)}" for mark in ",:")
    line = json.dumps(record, ensure_ascii=draw(st.booleans()), separators=separators)
    line = f"{draw(spaces)}{line[:-1]}{draw(spaces)}}}{draw(spaces)}"
    steps = draw(st.lists(st.integers(-20_000, 20_000), min_size=len(titles), max_size=len(titles)))
    return line.encode(), canonical(np.array(steps) / 1000)


@unhurried
@given(scored())
def test_what_is_put_on_can_be_taken_off(example: tuple[bytes, np.ndarray]) -> None:
    """Guards: records that lose their spacing, scores that move, and a suffix that is found where there is none."""
    line, log_odds = example
    record = parse_unscored(line, "here", FORM, None)
    result = scored_line(record, log_odds, SHA256)
    end = len(line.rstrip()) - 1
    assert result.startswith(line[:end]) and result.endswith(line[end:])
    found = json.loads(result)
    assert list(found) == [*json.loads(line), "noise_probability", "noise_model"]
    assert found["noise_model"] == SHA256[:12]
    assert original_line(result) == line
    assert original_line(line) is None
    back = parse_scored(result, "here", FORM, None)
    assert (back.line, back.titles, back.data, back.model) == (line, record.titles, record.data, SHA256[:12])
    assert back.log_odds.dtype == log_odds.dtype and np.array_equal(back.log_odds, log_odds)


ALL = np.arange(-20_000, 20_001)


def test_every_score_survives_as_text_with_the_fewest_decimals() -> None:
    """Guards: kept scores that gate otherwise than fresh ones, and lines twice as long as they need to be."""
    scores = canonical(ALL / 1000)
    texts = json.dumps(shortest_probabilities(scores).tolist())
    chances = np.array(json.loads(texts))
    assert np.array_equal(log_odds_from(chances), scores)
    assert ((chances > 0) & (chances < 1)).all()
    decimals = np.array([len(np.format_float_positional(chance)) - 2 for chance in chances])
    for fewer in range(1, decimals.max()):
        # Not the outermost scores, which 0 and 1 would give as well.
        longer = (decimals > fewer) & (np.abs(ALL) < 20_000)
        exact = 1 / (1 + np.exp(-ALL[longer] / 1000))
        assert not np.any(log_odds_from(np.round(exact, fewer)) == scores[longer])
    assert np.mean(decimals[np.abs(ALL) < 4000]) < 5


@unhurried
@given(st.floats(-100, 100, width=32))
def test_canonical_scores_are_near_and_stay(score: float) -> None:
    """Guards: rounding that is not idempotent, negative zero, and scores beyond what a text can hold."""
    once = canonical(np.array([score], dtype=np.float32))
    assert once.dtype == np.float32
    assert abs(once[0] - np.clip(score, -20, 20)) <= 0.000502
    assert np.array_equal(canonical(once), once)
    assert not (once[0] == 0 and np.signbit(once[0]))


@pytest.mark.parametrize(
    ("form", "way", "remedy"),
    [
        (RecordFormat(newest_first=True), "newest-first", "newest_first"),
        (RecordFormat(padding_ids=("0",)), "padded", "padding_id"),
    ],
)
def test_scores_are_read_as_their_items_were(form: RecordFormat, way: str, remedy: str) -> None:
    """Guards: newest items edited in silence, and padding counted, by who forgets to say again how records are read."""
    line = b'{"items": [{"id": 5, "title": "A"}, {"id": 6, "title": "B"}, {"id": 0, "title": "-"}]}'
    result = scored_line(parse_unscored(line, "here", form, None), np.float32([1, 2, np.nan]), SHA256)
    assert json.loads(result)["noise_model"] == f"{SHA256[:12]} {way}"
    assert original_line(result) == line
    back = parse_scored(result, "here", form, None)
    assert (back.line, back.model) == (line, SHA256[:12])
    with pytest.raises(RecordError, match=f"here: was scored {way}.*{remedy}"):
        parse_scored(result, "here", FORM, None)
    with pytest.raises(RecordError, match="12 hexadecimal digits"):
        parse_scored(result.replace(way.encode(), b"sideways"), "here", form, None)
    plain = scored_line(parse_unscored(line, "here", FORM, None), np.float32([1, 2, 3]), SHA256)
    assert parse_scored(plain, "here", form, None).model == SHA256[:12]  # who says more than the line knows better


@pytest.mark.parametrize("name", ["noise_probability", "noise_model"])
def test_a_record_is_not_scored_twice(name: str) -> None:
    """Guards: a record with the same field twice, of which every reader takes another."""
    with pytest.raises(RecordError, match=f'here: has a field "{name}" already'):
        parse_unscored(f'{{"items": [], "{name}": 1}}'.encode(), "here", FORM, None)


@unhurried
@given(scored(), st.data())
def test_a_line_that_another_program_wrote_again_is_read(
    example: tuple[bytes, np.ndarray], data: st.DataObject
) -> None:
    """Guards: scores refused because jq, pandas or json.dumps put blanks between them, or fields behind or before."""
    line, log_odds = example
    found = json.loads(scored_line(parse_unscored(line, "here", FORM, None), log_odds, SHA256))
    more = data.draw(st.dictionaries(texts.map(lambda name: f"+{name}"), values, max_size=2))
    fields = dict(data.draw(st.permutations([*found.items(), *more.items()])))
    separators = data.draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")]))
    again = json.dumps(fields, ensure_ascii=data.draw(st.booleans()), separators=separators).encode()
    back = parse_scored(again, "here", FORM, None)
    expected = {name: value for name, value in fields.items() if name not in ("noise_probability", "noise_model")}
    assert back.data == expected and list(back.data) == list(expected)
    assert back.line is not None
    assert list(json.loads(back.line).items()) == list(expected.items())
    assert back.render() == back.line
    assert (back.titles, back.model) == (found["items"], SHA256[:12])
    assert back.log_odds.dtype == log_odds.dtype and np.array_equal(back.log_odds, log_odds)


END = ',"noise_model":"0123456789ab"}'
AGAIN = "score the records again with `llm4dsr score`"
FIRST = "run `llm4dsr score` first"


@pytest.mark.parametrize("reorder", [False, True], ids=["as written", "written again"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"items":["a","b"]}', f'"noise_probability" is missing, the fields are "items": {FIRST}'),
        (
            '{"items":["a","b"],"x":{"y":1,"noise_probability":[0.5,0.5],"noise_model":"0123456789ab"}}',
            f'"noise_probability" is missing, the fields are "items", "x": {FIRST}',
        ),
        (
            '{"items":["a","b"],"noise_model":"0123456789ab"}',
            f'"noise_probability" is missing, the fields are "items", "noise_model": {AGAIN}',
        ),
        (
            '{"items":["a","b"],"noise_probability":[0.5,0.5]}',
            f'"noise_model" is missing, the fields are "items", "noise_probability": {AGAIN}',
        ),
        (
            '{"items":["a","b"],"noise_probability":[0.5]' + END,
            f'"noise_probability" has 1 entries, "items" 2: {AGAIN}',
        ),
        (
            '{"items":["a","b"],"noise_probability":[0.5,0.5,0.5]' + END,
            f'"noise_probability" has 3 entries, "items" 2: {AGAIN}',
        ),
        ('{"items":["a","b"],"noise_probability":[0.5,1.5]' + END, "[1] is 1.5, no probability"),
        ('{"items":["a","b"],"noise_probability":[-0.1,0.5]' + END, "[0] is -0.1, no probability"),
        ('{"items":["a","b"],"noise_probability":[0.5,"0.5"]' + END, '[1] is "0.5", no probability'),
        ('{"items":["a","b"],"noise_probability":[0.5,true]' + END, "[1] is True, no probability"),
        ('{"items":["a","b"],"noise_probability":[0.5,[]]' + END, "[1] is a list, no probability"),
        ('{"items":["a","b"],"noise_probability":"[0.5]"' + END, "is a string where a list should be"),
        (
            '{"items":["a","b"],"noise_probability":[0.5,0.5],"noise_model":"0123"}',
            f'"noise_model" is "0123" where 12 hexadecimal digits should be: {AGAIN}',
        ),
        (
            '{"items":["a","b"],"noise_probability":[0.5,0.5],"noise_model":123456789012}',
            f'"noise_model" is 123456789012 where 12 hexadecimal digits should be: {AGAIN}',
        ),
        ('{"items":["a","b"],"noise_probability":[0.5,0.5],"noise_model":null}', "is null where 12 hex"),
    ],
)
def test_missing_and_damaged_scores_are_told_exactly(line: str, message: str, reorder: bool) -> None:
    """Guards: probabilities of other items, or no numbers at all, that are believed; "score first", said of a score."""
    if reorder:
        line = json.dumps({"first": 1, **json.loads(line)})
        message = message.replace("the fields are ", 'the fields are "first", ')
    with pytest.raises(RecordError) as caught:
        parse_scored(line.encode(), "here", FORM, None)
    assert str(caught.value).startswith("here: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        '{"items":["a","b"],"noise_probability":[0.5,1e999]' + END,
        '{"items":["a","b"],"noise_probability":[0.5,NaN]' + END,
        '{"items":["a","b"],"noise_probability":[],"noise_probability":7,"noise_model":"0123456789ab"}',
        '{"items":["a","b"],"noise_probability":[0.1,0.1],"noise_probability":[0.5,0.5]' + END,
    ],
)
def test_numbers_that_are_none_and_fields_that_are_there_twice_are_refused(line: str) -> None:
    """Guards: a record of which every reader takes another half; a traceback."""
    with pytest.raises(RecordError, match=r"^here: "):
        parse_scored(line.encode(), "here", FORM, None)


def test_an_object_is_scored_as_its_line_is() -> None:
    """Guards: a record without bytes, of a program, that cannot be kept with its scores."""
    data = {"items": ["a", "b"], "n": 2**70}
    line = scored_line(record_of(data, "row 1", FORM, None), np.zeros(2, np.float32), SHA256)
    back = parse_scored(line, "here", FORM, None)
    assert (back.data, back.log_odds.tolist()) == (data, [0, 0])


def test_scores_of_two_denoisers_do_not_mix() -> None:
    """Guards: one threshold for scores that mean different things."""

    def record(where: str, model: str) -> Any:
        line = scored_line(parse_record(b'{"items": ["a"]}', where, FORM, None), np.zeros(1, np.float32), model)
        return parse_scored(line, where, FORM, None)

    one, other = record("f:1", "a" * 64), record("f:2", "b" * 64)
    KeptScores().check([one, one])
    for kept, wrong in (
        (KeptScores(), "f:2"),
        (KeptScores("it", "a" * 64), "f:2"),
        (KeptScores("it", "b" * 64), "f:1"),
    ):
        with pytest.raises(ModelError, match=rf"^{wrong}: scored by another denoiser .*: score all records again$"):
            kept.check([one, other])
    assert isinstance(one, Record)
