"""Items that nobody can judge, padding, and the order of time: the commands leave alone what they should."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call, call, read, read_edits, sequences, write

from llm4dsr_cli import Cleaning, Denoiser, ItemSequence
from llm4dsr_cli.scores import shortest_probabilities

pytestmark = pytest.mark.usefixtures("warm_environment")

TITLES = {n: f"title {n}" for n in range(60)}
UNTITLED = {100: None, 101: "", 102: "nan", 103: " "}


@pytest.fixture
def llm4dsr(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr("apply", ...)`` in this process."""
    return lambda *arguments: call(monkeypatch, capfdbinary, *arguments)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    rows = [{"id": id_, "title": title} for id_, title in {**TITLES, **UNTITLED}.items()]
    return write(tmp_path / "catalog.jsonl", rows)


def judged_alone(records: list[dict[str, Any]], model: Path) -> list[list[float | None]]:
    """The probabilities of each record's items; those of items with a title are as if the others were not there."""
    titles = [[TITLES[item] for item in record["items"] if item in TITLES] for record in records]
    with Denoiser.load(str(model), threads=1, weights="q8_0") as denoiser:
        scores = [s for i in range(0, len(titles), 64) for s in denoiser.score(titles[i : i + 64])]
    chances = [iter(shortest_probabilities(s).tolist()) for s in scores]
    return [
        [next(mine) if item in TITLES else None for item in record["items"]]
        for record, mine in zip(records, chances, strict=True)
    ]


def gaps(n: int, seed: int) -> list[dict[str, Any]]:
    """Records in which some items have no title or are not in the catalog."""
    rng = random.Random(seed)
    records = []
    for user in range(n):
        items = rng.sample(range(1, 60), rng.randint(0, 8))
        for _ in range(rng.choice([0, 0, 1, 2])):
            items.insert(rng.randint(0, len(items)), rng.choice([100, 101, 102, 103, 900, 901]))
        records.append({"user_id": user, "items": items, "ratings": [*range(len(items))]})
    return records


def test_the_rest_of_a_sequence_is_judged_as_if_unknown_items_were_not_there(
    tmp_path: Path, clean: Call, llm4dsr: Call, engine: list[str], tiny_denoiser: Path, catalog: Path
) -> None:
    """Guards: a third of the histories thrown away for 2% of the items; "nan" judged; scores that move with gaps."""
    records = gaps(70, seed=1)
    source, target, report = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl", tmp_path / "report.json"
    known = ["--catalog", catalog]
    outcome = clean(source, target, *known, "--action", "mark", "--annotate", "--threshold", 0.55, "--report", report)
    assert outcome.code == 0, outcome.err
    expected = judged_alone(records, tiny_denoiser)
    marked = read(target)
    assert [record["noise_probability"] for record in marked] == expected
    flagged = 0
    for record, chances in zip(marked, expected, strict=True):
        flags = record["noise_flag"]
        assert all(chance is not None and chance > 0.55 for chance, flag in zip(chances, flags, strict=True) if flag)
        assert not flags or flags[-1] == 0
        flagged += sum(flags)
    assert flagged > 20
    unknown = [item for record in records for item in record["items"] if item not in TITLES]
    absent = sum(item >= 900 for item in unknown)
    assert f"{len(unknown)} items left as they are, unjudged: " in outcome.err
    assert f"{absent} not in the catalog (id 90" in outcome.err
    assert f"{len(unknown) - absent} without a title (id 10" in outcome.err
    told = json.loads(report.read_bytes())
    assert told["counts"]["items"] == sum(len(record["items"]) for record in records)
    assert told["counts"]["unjudged_items"] == len(unknown)
    assert told["unjudged"]["not in the catalog"]["items"] == absent

    dropped = tmp_path / "dropped.jsonl"
    assert clean(source, dropped, *known, "--threshold", 0.55).code == 0
    for before, mark, after in zip(records, marked, read(dropped), strict=True):
        kept = [i for i, flag in enumerate(mark["noise_flag"]) if not flag]
        assert after == {"user_id": before["user_id"], "items": [before["items"][i] for i in kept], "ratings": kept}
    scored, again = tmp_path / "scored.jsonl", tmp_path / "again.jsonl"
    outcome = llm4dsr("score", source, scored, *known, *engine)
    assert f"{len(unknown)} items not judged, with null for a probability" in outcome.err
    assert [record["noise_probability"] for record in read(scored)] == expected
    assert llm4dsr("apply", scored, again, *known, "--threshold", 0.55).code == 0
    assert again.read_bytes() == dropped.read_bytes()


def test_the_last_item_is_protected_though_nobody_knows_it(tmp_path: Path, clean: Call, catalog: Path) -> None:
    """Guards: the item before the recommender's target protected in its place, because the target has no title."""
    records = [{"items": [*range(n, n + 5), 900]} for n in range(20)]
    source, target = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl"
    options = ["--catalog", catalog, "--threshold", 0, "--action", "mark"]
    assert clean(source, target, *options).code == 0
    for record in read(target):
        # All that is known may go but one item, which says nothing of itself when it is alone.
        assert record["noise_flag"][-1] == 0 and sum(record["noise_flag"]) == 4
    assert clean(source, target, *options, "--protect-last", 2).code == 0
    assert [record["noise_flag"] for record in read(target)] == [[1, 1, 1, 1, 0, 0]] * 20


def test_records_of_which_nothing_is_known_pass_through(tmp_path: Path, clean: Call, catalog: Path) -> None:
    """Guards: an error, or a whole run of unjudged records that ends as if all were well."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, [{"items": [900, 901]}, {"items": [None]}, {"items": [4.5]}])
    outcome = clean(source, target, "--catalog", catalog, "--threshold", 0)
    assert (outcome.code, target.read_bytes()) == (0, source.read_bytes())
    assert "no item was judged" in outcome.err
    write(source, [{"items": [1, 2]}, {"items": [900]}])
    assert "no item was judged" not in clean(source, target, "--catalog", catalog, "--threshold", 0).err


@pytest.mark.parametrize(("id_", "shown"), [("1.0", "1.0"), (1.0, "1.0"), (" 1 ", '" 1 "'), ("01", "01")])
def test_an_id_that_is_spelled_otherwise_is_named(
    tmp_path: Path, clean: Call, catalog: Path, id_: Any, shown: str
) -> None:
    """Guards: a run in which nothing is judged, and no word on why: pandas made floats of the ids."""
    source = write(tmp_path / "in.jsonl", [{"items": [type(id_)(900), id_]}])
    outcome = clean(source, tmp_path / "out.jsonl", "--catalog", catalog, "--threshold", 1)
    assert f"; id {shown} is not in the catalog, 1 is" in outcome.err


def test_replacing_passes_over_what_nobody_knows(tmp_path: Path, clean: Call, catalog: Path) -> None:
    """Guards: a proposal put in an unknown item's place, padding proposed, or what the sequence has already."""
    rng = random.Random(4)
    records = []
    for user in range(60):
        items = [0, 0, *rng.sample(range(1, 30), 5)]
        items.insert(rng.randint(2, 6), rng.choice([100, 900]))
        records.append({"user_id": user, "items": items, "ratings": [*range(len(items))]})
    source, target = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl"
    options = ["--catalog", catalog, "--threshold", 0.5, "--padding-id", 0, "--action", "replace", "--fallback", "keep"]
    outcome = clean(source, target, *options)
    assert outcome.code == 0, outcome.err
    replaced = 0
    for before, after in zip(records, read(target), strict=True):
        assert after["ratings"] == before["ratings"]
        for old, new in zip(before["items"], after["items"], strict=True):
            if old in (0, 100, 900):
                assert new == old
            elif new != old:
                replaced += 1
                assert new in TITLES and new != 0 and new not in before["items"]
    assert replaced > 20


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(
    tmp_path: Path, clean: Call, llm4dsr: Call, engine: list[str], catalog: Path, side: str
) -> None:
    """Guards: zeros judged as a film, counted, protected in the place of the last item, or dropped."""
    rng = random.Random(5)
    plain = [{"items": rng.sample(range(1, 60), rng.randint(0, 6))} for _ in range(40)]
    padded = []
    for record in plain:
        zeros = [0] * (6 - len(record["items"]))
        padded.append({"items": [*zeros, *record["items"]] if side == "left" else [*record["items"], *zeros]})
    known = ["--catalog", catalog, "--annotate", "--threshold", 0.5]
    without, source = write(tmp_path / "plain.jsonl", plain), write(tmp_path / "in.jsonl", padded)
    target, other, report = tmp_path / "out.jsonl", tmp_path / "other.jsonl", tmp_path / "report.json"
    assert clean(without, other, *known).code == 0
    outcome = clean(source, target, *known, "--padding-id", 0, "--report", report)
    assert outcome.code == 0, outcome.err
    assert "unjudged" not in outcome.err
    found = json.loads(report.read_bytes())["counts"]
    assert found["items"] == sum(len(record["items"]) for record in plain)
    dropped = 0
    for before, result, wanted in zip(padded, read(target), read(other), strict=True):
        real = [item for item in result["items"] if item]
        assert real == wanted["items"]
        assert result["items"].count(0) == before["items"].count(0)
        chances = dict(zip(result["items"], result["noise_probability"], strict=True))
        assert [chances[item] for item in real] == wanted["noise_probability"]
        assert 0 not in result["items"] or chances[0] is None
        dropped += len(before["items"]) - len(result["items"])
    assert dropped > 20
    scored, applied = tmp_path / "scored.jsonl", tmp_path / "applied.jsonl"
    assert llm4dsr("score", source, scored, "--catalog", catalog, "--padding-id", 0, *engine).code == 0
    assert llm4dsr("apply", scored, applied, *known, "--padding-id", 0).code == 0
    assert applied.read_bytes() == target.read_bytes()


def test_newest_first_is_the_same_the_other_way_round(
    tmp_path: Path, clean: Call, llm4dsr: Call, engine: list[str], catalog: Path
) -> None:
    """Guards: the oldest item protected for the newest, scores of a sequence read backwards, an order that changes."""
    records = gaps(40, seed=7)
    turned = [{**record, "items": record["items"][::-1], "ratings": record["ratings"][::-1]} for record in records]
    forth, back = write(tmp_path / "in.jsonl", records), write(tmp_path / "back.jsonl", turned)
    target, other = tmp_path / "out.jsonl", tmp_path / "other.jsonl"
    options = ["--catalog", catalog, "--annotate", "--threshold", 0.55, "--protect-last", 2, "--max-edits", 2]
    lists = ("items", "ratings", "noise_probability", "noise_flag")
    for action in ("mark", "replace", "drop"):
        assert clean(forth, other, *options, "--action", action).code == 0
        outcome = clean(back, target, *options, "--newest-first", "--action", action)
        assert outcome.code == 0, outcome.err
        assert read(target) == [
            {name: value[::-1] if name in lists else value for name, value in record.items()} for record in read(other)
        ]
    scored, applied = tmp_path / "scored.jsonl", tmp_path / "applied.jsonl"
    assert llm4dsr("score", back, scored, "--catalog", catalog, "--newest-first", *engine).code == 0
    assert llm4dsr("apply", scored, applied, *options, "--newest-first").code == 0
    assert applied.read_bytes() == target.read_bytes()


def test_lists_beside_the_items_keep_step_and_are_named(tmp_path: Path, clean: Call) -> None:
    """Guards: 10 items beside 11 ratings, exit 0; tags cut though they run parallel to nothing."""
    rows = sequences(40, seed=9)
    records = [
        {"items": titles, "ratings": [n] * len(titles), "tags": ["x"] * (n % 4), "deep": {"t": [*range(len(titles))]}}
        for n, titles in enumerate(rows)
    ]
    source, target = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl"
    outcome = clean(source, target, "--threshold", 0.5)
    assert 'kept in step with the items: "ratings", "deep.t" (' in outcome.err
    for before, after in zip(records, read(target), strict=True):
        assert [before["items"][i] for i in after["deep"]["t"]] == after["items"]
        assert len(after["ratings"]) == len(after["items"])
        assert after["tags"] == before["tags"]
    outcome = clean(source, target, "--threshold", 0.5, "--not-parallel", "ratings", "--not-parallel", "deep")
    assert "kept in step" not in outcome.err
    assert [record["ratings"] for record in read(target)] == [record["ratings"] for record in records]
    records[30]["items"], records[30]["ratings"] = ["a", "b", "c", "d"], [1]
    write(source, records)
    failed = clean(source, target, "--threshold", 0, "--protect-last", 0, "--not-parallel", "deep", "--quiet")
    failed.failed(1, f"{source}:31: ", '"ratings" has 1 entries', "--not-parallel")


def test_ids_are_looked_up_in_the_column_that_has_the_records_ids(tmp_path: Path, clean: Call) -> None:
    """Guards: every title another's, exit 0, because the catalog's first column was a data frame's index."""
    source, target = write(tmp_path / "in.jsonl", [{"items": [5, 13, 21, 2]}]), tmp_path / "out.jsonl"
    path, audit = tmp_path / "movies.csv", tmp_path / "audit.jsonl"
    options = ["--action", "mark", "--threshold", 0.0001, "--protect-last", 0, "--audit", audit]
    films = {n: f"film {n}" for n in range(1, 30)}
    rows = [f"{n + 70},{n - 1},{n},{title}" for n, title in films.items()]

    def titles(*more: object) -> str:
        outcome = clean(source, target, "--catalog", path, *options, *more)
        assert outcome.code == 0, outcome.err
        assert {edit["from"]: edit["title"] for edit in read_edits(audit)}.items() <= films.items()
        return outcome.err

    for header in ("rank,,movieId,title", "userId,Unnamed: 0,Item_ID,Title", "x,index,asin,name", "id,x,movieId,title"):
        path.write_text("\n".join([header, *rows]) + "\n")
        *_, ids, names = header.split(",")
        assert f'catalog {path}: ids from "{ids}", titles from "{names}"' in titles()
    path.write_text("\n".join(["x,id,movieId,title", *rows]) + "\n")  # both columns have the records' ids
    asked = clean(source, target, "--catalog", path, "--quiet")
    asked.failed(1, '"id" and "movieId" may each hold the ids', "--item-id-field")
    titles("--catalog-id-field", "movieId")
    titles("--item-id-field", "movieId")


def test_the_catalogs_fields_may_have_other_names_than_the_items(tmp_path: Path, clean: Call) -> None:
    """Guards: one option for two files, of which each names its fields otherwise."""
    write(tmp_path / "c.jsonl", [{"number": n, "label": f"film {n}"} for n in range(20)])
    source = write(tmp_path / "in.jsonl", [{"items": [{"key": n} for n in range(5)]}])
    names = ["--item-id-field", "key", "--catalog-id-field", "number", "--catalog-title-field", "label"]
    outcome = clean(source, tmp_path / "out.jsonl", "--catalog", tmp_path / "c.jsonl", *names, "--threshold", 1)
    assert outcome.code == 0, outcome.err
    assert 'ids from "number", titles from "label"' in outcome.err and "unjudged" not in outcome.err


def everywhere(value: Any, name: str) -> list[Any]:
    """Values of a name anywhere in what JSON can say, the outermost first."""
    if isinstance(value, list):
        return [found for one in value for found in everywhere(one, name)]
    if not isinstance(value, dict):
        return []
    return [*([value[name]] if name in value else []), *(f for one in value.values() for f in everywhere(one, name))]


def test_measuring_and_calibrating_leave_out_what_nobody_knows(
    tmp_path: Path, llm4dsr: Call, engine: list[str], catalog: Path
) -> None:
    """Guards: a traceback for None, labels of an item beside another's title, padding that is counted."""
    records = gaps(60, seed=11)
    for record in records:
        record["items"] = [*record["items"], 0, 0]
        record["noise"] = [int(item % 3 == 0) for item in record["items"]]
    source = write(tmp_path / "in.jsonl", records)
    known = ["--catalog", catalog, "--padding-id", 0, *engine]
    labelled = ["--labels-field", "noise", "--json", "--bootstrap", 0, "--protect-last", 0]
    outcome = llm4dsr("evaluate", source, *known, *labelled)
    assert outcome.code == 0, outcome.err
    items = [item for record in records for item in record["items"] if item]
    unknown = sum(item not in TITLES for item in items)
    assert f"{unknown} items left out: " in outcome.err
    found = json.loads(outcome.out)
    assert everywhere(found, "n_items")[0] == len(items) - unknown
    assert everywhere(found, "n_noise")[0] == sum(item % 3 == 0 for item in items if item in TITLES)
    outcome = llm4dsr("calibrate", source, "--output", tmp_path / "my.gate", *known, "--sequences", 30)
    assert outcome.code == 0, outcome.err
    assert f"{unknown} items left out: " in outcome.err


def test_a_decision_leaves_titles_of_none_alone(tiny_denoiser: Path) -> None:
    """Guards: a TypeError for a data frame's missing title."""
    with Cleaning.load(str(tiny_denoiser), threads=1, weights="q8_0", threshold=0.0, protect_last=0) as cleaning:
        first, second, third = cleaning.decide([["a", None, "b", "c"], ItemSequence([None, None]), ["a", "b", "c"]])
        assert np.isnan(first.log_odds).tolist() == [False, True, False, False]
        assert first.log_odds[[0, 2, 3]].tolist() == third.log_odds.tolist()
        assert not first.flagged[1] and first.keep[1]
        assert second.keep.all() and np.isnan(second.noise_probability).all()
        (again,) = cleaning.decide(cleaning.score([["a", None, "b", "c"]]))
        assert again.flagged.tolist() == first.flagged.tolist()
        (cleaned,) = cleaning.clean([{"items": ["a", None, "b", "c"], "r": [1, 2, 3, 4]}], annotate=True)
        assert None in cleaned["items"] and len(cleaned["r"]) == len(cleaned["items"]) == 2
        assert cleaned["noise_probability"][cleaned["items"].index(None)] is None


def test_zeros_that_fill_sequences_up_are_guessed_at(tmp_path: Path, clean: Call) -> None:
    """Guards: "not in the catalog", thousands of times, for what an option spares."""
    catalog = write(tmp_path / "catalog.jsonl", [{"id": n, "title": f"thing {n}"} for n in range(1, 9)])
    told = "if id 0 only fills sequences up, name it with --padding-id"
    for items, options, guessed in (([1, 2, 3, 0, 0], [], True), ([1, 2, 3, 77], [], False), ([1, 2, 0], ["0"], False)):
        source = write(tmp_path / "in.jsonl", [{"items": items}] * 3)
        padding = [word for id_ in options for word in ("--padding-id", id_)]
        outcome = clean(source, tmp_path / "out.jsonl", "--catalog", catalog, *padding)
        assert (told in outcome.err) == guessed, outcome.err
