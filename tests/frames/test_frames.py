"""Data frames: what is cleaned comes back as it was, less what does not belong."""

from __future__ import annotations

import datetime as dt
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm4dsr_cli import Catalog, Cleaning, ItemSequence, Llm4dsrError, OptionError, clean_frame, flag_frame
from llm4dsr_cli.frames.frame import frame_of

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

pytestmark = pytest.mark.usefixtures("warm_environment")
COLOURS = ("red", "green", "blue")
TITLES = {number: f"{COLOURS[number % 3]} thing {number}" for number in range(18)}
# The tiny denoiser's scores lie around one half.
HALF = {"threshold": 0.5}


@pytest.fixture(scope="module")
def tiny(tiny_denoiser: Path) -> dict[str, Any]:
    """Arguments that choose the tiny denoiser."""
    return {"model": str(tiny_denoiser), "threads": 1, "weights": "q8_0"}


def interactions(users: int = 8, seed: int = 0) -> dict[str, list[Any]]:
    """Columns of a log of users who like a colour, and have one item of another; rows in no order, some at one time."""
    rng = random.Random(seed)
    rows = []
    for user in range(users):
        items = rng.sample(range(user % 3, 18, 3), 5)
        for item in [*items, rng.choice([item for item in range(18) if item % 3 != user % 3])]:
            rating, time = float(rng.randrange(1, 6)), rng.randrange(5) * 60 + 1_600_000_000
            rows += [(user, item, rating, time)]
    rng.shuffle(rows)
    return dict(
        zip(("user", "item", "rating", "time"), (list(column) for column in zip(*rows, strict=True)), strict=True)
    )


def cleaned(df: Any, tiny: dict[str, Any], **changes: Any) -> Any:
    return clean_frame(
        df, **{"user": "user", "item": "item", "time": "time", "titles": TITLES, **HALF, **tiny, **changes}
    )


def flagged(df: Any, tiny: dict[str, Any], **changes: Any) -> Any:
    return flag_frame(
        df, **{"user": "user", "item": "item", "time": "time", "titles": TITLES, **HALF, **tiny, **changes}
    )


def by_hand(columns: dict[str, list[Any]], tiny: dict[str, Any]) -> tuple[list[bool], list[float]]:
    """Flags and probabilities of all rows by ``Cleaning``, with sequences that are put together in the plainest way."""
    n = len(columns["user"])
    rows_of: dict[Any, list[int]] = {}
    for row in range(n):
        if None not in (columns["user"][row], columns["item"][row], columns["time"][row]):
            rows_of.setdefault(columns["user"][row], []).append(row)
    flags, chances = [False] * n, [float("nan")] * n
    sequences = []
    for user, rows in rows_of.items():
        rows.sort(key=lambda row: (columns["time"][row], row))
        sequences.append(ItemSequence([TITLES.get(columns["item"][row]) for row in rows], str(user)))
    with Cleaning.load(**HALF, **tiny) as cleaning:
        for rows, decision in zip(rows_of.values(), cleaning.decide(sequences), strict=True):
            for row, flag, chance in zip(rows, decision.flagged, decision.noise_probability, strict=True):
                flags[row], chances[row] = bool(flag), float(chance)
    return flags, chances


# --- a frame comes back as it was ------------------------------------------------------------------------------------

COLUMNS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.none(), st.integers(0, 20)),  # three of them have no title
        st.one_of(st.none(), st.integers(0, 4)),
        st.text(max_size=3),
    ),
    min_size=1,
    max_size=30,
).filter(lambda rows: any(item is not None and item < 18 for _, item, *_ in rows))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(COLUMNS, st.randoms(use_true_random=False))
def test_rows_columns_types_and_index_stay(tiny: dict[str, Any], rows: list[Any], rng: random.Random) -> None:
    """Guards: rows looked up by an index that is there twice, rows in the order of users or of time, a column of
    integers that becomes one of floats, ties in another order than the rows', and rows that nobody can judge lost."""
    columns = dict(
        zip(("user", "item", "time", "note"), (list(column) for column in zip(*rows, strict=True)), strict=True)
    )
    flags, chances = by_hand(columns, tiny)
    df = pd.DataFrame(
        {"note": columns["note"], **{name: pd.array(columns[name], "Int64") for name in ("user", "item", "time")}}
    )
    df.index = pd.Index([rng.choice("abc") for _ in rows], name="key")
    before = df.copy()
    found = flagged(df, tiny)
    pd.testing.assert_frame_equal(found.drop(columns=["is_noise", "noise_probability"]), before)
    assert found["is_noise"].tolist() == flags and found["is_noise"].dtype == bool
    np.testing.assert_array_equal(found["noise_probability"].to_numpy(), np.array(chances))
    pd.testing.assert_frame_equal(cleaned(df, tiny), before[~np.array(flags)])
    pd.testing.assert_frame_equal(df, before)
    frame = pl.DataFrame(columns, schema={"user": pl.Int16, "item": pl.UInt8, "time": pl.Int64, "note": pl.String})
    found = flagged(frame, tiny)
    assert found.drop("is_noise", "noise_probability").equals(frame) and found.schema["is_noise"] == pl.Boolean
    assert found["is_noise"].to_list() == flags
    assert found["noise_probability"].to_list() == [None if chance != chance else chance for chance in chances]
    kept = cleaned(frame, tiny)
    assert kept.equals(frame.filter(~pl.Series(flags))) and kept.schema == frame.schema


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_an_empty_frame_and_one_that_names_nobody_come_back(library: str) -> None:
    """Guards: an error for a partition without rows, and a model that is loaded for nothing."""
    make: Callable[..., Any] = pd.DataFrame if library == "pandas" else pl.DataFrame
    for columns in ({"user": [], "item": [], "time": []}, {"user": [None, None], "item": [1, 2], "time": [1, 2]}):
        df = make(columns)
        assert cleaned(df, {"model": "no such model"}).equals(df)
        found = flagged(df, {"model": "no such model"})
        assert [*found.columns] == ["user", "item", "time", "is_noise", "noise_probability"]
        assert len(found) == len(df) and not any(found["is_noise"])


# --- what a frame says in another type -------------------------------------------------------------------------------

AS: dict[str, Callable[[Any], Any]] = {
    "pandas floats": lambda values: pd.Series(values, dtype="float64"),
    "pandas texts": lambda values: pd.Series([*map(str, values)]),
    "pandas objects": lambda values: pd.Series(values, dtype=object),
    "pandas objects of texts": lambda values: pd.Series([*map(str, values)], dtype=object),
    "pandas Int64": lambda values: pd.Series(values, dtype="Int64"),
    "pandas Float32": lambda values: pd.Series(values, dtype="Float32"),
    "pandas string": lambda values: pd.Series([*map(str, values)], dtype="string"),
    "pandas categories": lambda values: pd.Series(values).astype("category"),
    "polars floats": lambda values: pl.Series(values, dtype=pl.Float64),
    "polars texts": lambda values: pl.Series([*map(str, values)]),
    "polars Categorical": lambda values: pl.Series([*map(str, values)], dtype=pl.Categorical),
    "polars Enum": lambda values: pl.Series([*map(str, values)], dtype=pl.Enum([*map(str, sorted({*values}))])),
    "polars Int8": lambda values: pl.Series(values, dtype=pl.Int8),
}


@pytest.mark.parametrize("name", AS)
@pytest.mark.parametrize("action", ["drop", "replace"])
def test_ids_are_compared_as_text_whatever_their_type(name: str, action: str, tiny: dict[str, Any]) -> None:
    """Guards: 5.0 that is no 5, a category that is its code, a replacement that makes another type of its column."""
    columns = interactions()
    changes = {"action": action, "threshold": 0.45, "protect_last": 0}
    plain = cleaned(pd.DataFrame(columns), tiny, **changes)
    make: Callable[..., Any] = pd.DataFrame if name.startswith("pandas") else pl.DataFrame
    df = make({**columns, "user": AS[name](columns["user"]), "item": AS[name](columns["item"])})
    found = cleaned(df, tiny, **changes)
    as_plain = [int(float(str(value))) for value in found["item"]]
    assert as_plain == plain["item"].tolist() and [*found["time"]] == plain["time"].tolist()
    assert [*found["rating"]] == plain["rating"].tolist()
    assert [*map(str, found.dtypes)] == [*map(str, df.dtypes)]
    if action == "drop":
        assert 5 < len(found) < 43
    else:
        put = set(zip(plain["time"], plain["item"], strict=True)) - set(
            zip(columns["time"], columns["item"], strict=True)
        )
        assert put


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(lambda t: pd.Series(pd.to_datetime(t, unit="s")), id="datetimes"),
        pytest.param(lambda t: pd.Series(pd.to_datetime(t, unit="s", utc=True)), id="datetimes with a zone"),
        pytest.param(lambda t: pd.Series(pd.to_datetime(t, unit="s")).dt.strftime("%Y-%m-%dT%H:%M:%S"), id="ISO texts"),
        pytest.param(lambda t: pd.Series(map(str, t)), id="numbers as texts"),
        pytest.param(lambda t: pd.Series(t) + 2**60, id="large numbers"),
        pytest.param(lambda t: pd.Series(pd.to_datetime(t, unit="ns")), id="nanoseconds"),
        pytest.param(lambda t: pd.Series([dt.datetime.fromtimestamp(s) for s in t], dtype=object), id="objects"),
        pytest.param(lambda t: pl.Series([dt.datetime.fromtimestamp(s) for s in t]), id="polars' datetimes"),
        pytest.param(lambda t: pl.Series([dt.datetime.fromtimestamp(s).isoformat() for s in t]), id="polars' texts"),
    ],
)
def test_times_of_any_type_order_the_rows(times: Callable[[list[int]], Any], tiny: dict[str, Any]) -> None:
    """Guards: datetimes that are taken for texts, seconds that meet in a float, ISO dates that are refused."""
    columns = interactions()
    columns["time"] = [time + row % 2 for row, time in enumerate(columns["time"])]  # a second is a difference
    flags = flagged(pd.DataFrame(columns), tiny)["is_noise"].tolist()
    given = times(columns["time"])
    df = (
        pl.DataFrame({**columns, "time": given})
        if isinstance(given, pl.Series)
        else pd.DataFrame({**columns, "time": given})
    )
    assert [*flagged(df, tiny)["is_noise"]] == flags
    assert flags != flagged(pd.DataFrame(columns), tiny, time=None)["is_noise"].tolist()


def test_without_times_the_rows_are_in_order(tiny: dict[str, Any]) -> None:
    """Guards: rows that are sorted by something that nobody named."""
    columns = interactions()
    df = pd.DataFrame(columns)
    in_order = df.sort_values("time", kind="stable")
    found = flagged(in_order, tiny, time=None)["is_noise"]
    pd.testing.assert_series_equal(found.sort_index(), flagged(df, tiny)["is_noise"])


def test_titles_may_come_in_any_form(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Guards: a form of titles that is read otherwise, and ids of it that are compared with their type."""
    columns = interactions()
    df = pd.DataFrame(columns)
    path = tmp_path / "titles.csv"
    path.write_text("movieId,title\n" + "".join(f"{id_},{title}\n" for id_, title in TITLES.items()))
    names = {"item": [*TITLES], "title": [*TITLES.values()]}
    forms = [
        Catalog([(str(id_), title) for id_, title in TITLES.items()]),
        path,
        str(path),
        pd.Series(TITLES),
        {float(id_): title for id_, title in TITLES.items()},
        pd.DataFrame(names),
        pl.DataFrame(names),
        pl.DataFrame({"year": [1] * 18, "movieId": names["item"], "title": names["title"]}),
    ]
    expected = flagged(df, tiny)
    for form in forms:
        pd.testing.assert_frame_equal(flagged(df, tiny, titles=form), expected)
    own = df.assign(name=df["item"].map(TITLES))
    pd.testing.assert_frame_equal(flagged(own, tiny, titles="name").drop(columns="name"), expected)
    named = df.assign(item=df["item"].map(TITLES))
    assert flagged(named, tiny, titles="item")["is_noise"].tolist() == expected["is_noise"].tolist()


# --- as the command does it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["drop", "replace", "mark"])
@pytest.mark.parametrize("titles", ["catalog", "column"])
def test_a_frame_is_cleaned_as_its_file_is(
    action: Any, titles: str, tiny: dict[str, Any], tmp_path: Path, clean: Call
) -> None:
    """Guards: the library and the command drifting apart: other batches, counts, shares, or another order."""
    df = pd.DataFrame(interactions(users=120))
    catalog = tmp_path / "titles.csv"
    pd.DataFrame({"item_id": [*TITLES], "title": [*TITLES.values()]}).to_csv(catalog, index=False)
    options: list[Any] = ["--user-column", "user", "--item-column", "item", "--action", action]
    if titles == "column":
        df["title"] = df["item"].map(TITLES)
    else:
        options += ["--catalog", catalog]
    df.to_csv(tmp_path / "in.csv", index=False)
    outcome = clean(tmp_path / "in.csv", tmp_path / "out.csv", *options)
    assert outcome.code == 0, outcome.err
    said: list[str] = []
    given: dict[str, Any] = {"threshold": None, "titles": "title" if titles == "column" else catalog}
    found = cleaned(df, tiny, action=action, say=said.append, **given)
    assert "judge together" in outcome.err and any("judge together" in line for line in said)
    n_edits = int(0.05 * 720)
    if action == "mark":
        written = pd.read_csv(tmp_path / "out.csv")
        assert found["is_noise"].astype(int).tolist() == written["noise_flag"].tolist()
        assert found["is_noise"].sum() == n_edits
    else:
        pd.testing.assert_frame_equal(found.reset_index(drop=True), pd.read_csv(tmp_path / "out.csv"))
        assert len(found) == 720 - n_edits or action == "replace"


# --- replacing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_replacement_takes_the_row_with_its_title(library: str, tiny: dict[str, Any]) -> None:
    """Guards: an id beside the title of another item, and cells of other columns that change or move."""
    columns = interactions(users=30)
    columns["name"] = [TITLES[item] for item in columns["item"]]
    df = pd.DataFrame(columns, index=[7] * 180) if library == "pandas" else pl.DataFrame(columns)
    found = cleaned(df, tiny, titles="name", action="replace", fallback="keep", threshold=0.4)
    assert len(found) == 180
    assert [*found["name"]] == [TITLES[item] for item in found["item"]]
    assert sum(new != old for new, old in zip(found["item"], columns["item"], strict=True)) > 10
    assert [*found["time"]] == columns["time"] and [*found["rating"]] == columns["rating"]
    assert [*df["name"]] == columns["name"]


@pytest.mark.parametrize(
    ("column", "fits"),
    [
        pytest.param(lambda v: pd.Series(v, dtype="int8"), lambda id_: id_ < 128, id="int8"),
        pytest.param(lambda v: pd.Series(v).astype("category"), lambda id_: id_ < 18, id="categories"),
        pytest.param(lambda v: pl.Series(v, dtype=pl.UInt8), lambda id_: id_ < 256, id="UInt8"),
        pytest.param(
            lambda v: pl.Series(map(str, v), dtype=pl.Enum([*map(str, range(20))])), lambda id_: id_ < 20, id="Enum"
        ),
        pytest.param(lambda v: pl.Series(v, dtype=pl.Float32), lambda id_: id_ != 2**24 + 1, id="Float32"),
        pytest.param(lambda v: pd.Series(v, dtype=object), lambda id_: id_ < 18, id="objects"),
    ],
)
def test_only_ids_that_a_column_can_hold_are_put_there(
    column: Callable[[Any], Any], fits: Callable[[int], bool], tiny: dict[str, Any]
) -> None:
    """Guards: 300 that is 44 in eight bits, a category that is not there, 2**24 + 1 that is no float of 32 bits."""
    columns = interactions(users=30)
    # A title stands for the first item of it that the column can hold.
    others = (*range(100, 108), 127, 128, 200, 255, 256, 300, 2**24, 2**24 + 1, 2**31)
    catalog = {**{id_: TITLES[number] for number, id_ in enumerate(others)}, **TITLES}
    given = column(columns["item"])
    make: Callable[..., Any] = pl.DataFrame if isinstance(given, pl.Series) else pd.DataFrame
    df = make({**columns, "item": given})
    found = cleaned(df, tiny, titles=catalog, action="replace", threshold=0.4, protect_last=0)
    assert [*map(str, found.dtypes)] == [*map(str, df.dtypes)]
    put = {int(float(str(value))) for value in found["item"]} - TITLES.keys()
    assert put <= {*others} and all(fits(id_) for id_ in put)
    assert bool(put) == any(fits(id_) for id_ in others)
    cell = frame_of(df).cells("item")
    assert {id_ for id_ in catalog if cell(id_) is not None} == {id_ for id_ in catalog if fits(id_)}


# --- what is refused -------------------------------------------------------------------------------------------------


class Spark:
    """A frame of another library."""

    def toPandas(self) -> None: ...


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"df": pl.LazyFrame({"user": [1]})}, "`df` is polars's LazyFrame: give df.collect()"),
        ({"df": {"user": [1]}}, "`df` is builtins's dict: give a data frame of pandas or polars"),
        ({"df": Spark()}, "give df.toPandas()"),
        ({"df": pd.DataFrame([[1, 2, 3, 4]], columns=["user", "item", "time", "item"])}, "`df` has two columns item"),
        ({"user": "users"}, '`user` is users, and there is no such column: choose one of "user", "item"'),
        ({"time": "when"}, "`time` is when"),
        ({"titles": "title"}, "`titles` is title, which is neither a column nor a file"),
        ({"titles": 5}, "`titles` is int"),
        ({"titles": {"x1": "A"}}, "no item has a title: id 1 is not in `titles`, x1 is"),
        ({"titles": {"007": "A", "001": "B"}}, "id 1 is not in `titles`, 001 is"),
        ({"titles": pd.DataFrame({"a": [1], "b": ["A"]})}, '`titles` is a frame of "a", "b": call the ids item'),
        ({"df": pd.DataFrame({"user": [1], "item": [1], "time": ["soon"]})}, "`time` is the column time"),
        ({"df": pd.DataFrame({"user": [1], "item": [1], "time": [1], "is_noise": [0]})}, "`df` has a column is_noise"),
        ({"edit": 1.5}, "`edit` is 1.5"),
        ({"action": "remove"}, "`action` is remove"),
    ],
)
def test_what_cannot_be_cleaned_is_refused_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    """Guards: a frame of which no item is judged, in silence; and errors of pandas deep down."""
    df = pd.DataFrame({"user": [1, 1], "item": [1, 2], "time": [1, 2]})
    arguments = {"df": df, "user": "user", "item": "item", "time": "time", "titles": TITLES, "model": "none", **changes}
    with pytest.raises(Llm4dsrError) as caught:
        clean_frame(**{"action": "mark", **arguments})
    assert words in str(caught.value) and isinstance(caught.value, OptionError)


def test_a_library_is_imported_only_for_its_own_frames() -> None:
    """Guards: pandas that has to be there for a frame of polars, or the other way round."""
    for library, other in (("pandas", "polars"), ("polars", "pandas")):
        code = f"""
import sys, {library} as library
from llm4dsr_cli import clean_frame
df = library.DataFrame({{"user": [], "item": []}})
assert clean_frame(df, user="user", item="item", titles={{1: "A"}}).equals(df)
assert "{other}" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
