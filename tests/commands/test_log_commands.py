"""Commands on logs: what is judged is what the sequences of the log are, and OUT is the log again."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, Call, call, files, read, read_edits, run, write

pytestmark = pytest.mark.usefixtures("warm_environment")
N = 40


@pytest.fixture
def llm4dsr(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr(COMMAND, ...)`` in this process, with the tiny denoiser."""

    def run(command: str, *arguments: object) -> Any:
        model = engine[:2] if command == "apply" else engine
        return call(monkeypatch, capfdbinary, command, *model, *arguments)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A MovieLens folder whose ratings are in no order, and the same as sequences."""
    rng = random.Random(0)
    titles = {10 + i: f"Thing {i}, The" for i in range(30)}
    sequences = {user: rng.sample(list(titles), 6) for user in range(N)}
    rows = [
        [user, item, rng.randint(1, 5), 100 * place] for user in sequences for place, item in enumerate(sequences[user])
    ]
    rng.shuffle(rows)
    with (tmp_path / "ratings.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["userId", "movieId", "rating", "timestamp"], *rows])
    with (tmp_path / "movies.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["movieId", "title", "genres"], *([i, title, "x"] for i, title in titles.items())])
    users = list(dict.fromkeys(row[0] for row in rows))
    write(tmp_path / "in.jsonl", [{"user_id": str(user), "items": [str(i) for i in sequences[user]]} for user in users])
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def by_user(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in sorted(rows_of(path), key=lambda row: float(row["timestamp"])):
        found.setdefault(row["userId"], []).append(row["movieId"])
    return found


@pytest.mark.parametrize(
    "options", [[], ["--action", "replace"], ["--edit", "20%", "--no-fusion"], ["--threshold", ".5"]]
)
def test_a_log_is_cleaned_as_its_sequences_are(folder: Path, llm4dsr: Call, options: list[str]) -> None:
    """Guards: rows in another order than the items that were judged; a catalog that is not found beside the log."""
    plain = llm4dsr("clean", folder / "in.jsonl", folder / "o.jsonl", "--catalog", folder / "movies.csv", *options)
    log = llm4dsr("clean", folder / "ratings.csv", folder / "out.csv", *options)
    assert (plain.code, log.code) == (0, 0), log.err
    assert f"{folder}/ratings.csv: CSV, one interaction a row; users from userId, items from movieId" in log.err
    wanted = {one["user_id"]: [str(item) for item in one["items"]] for one in read(folder / "o.jsonl") if one["items"]}
    assert by_user(folder / "out.csv") == wanted
    before, after = rows_of(folder / "ratings.csv"), rows_of(folder / "out.csv")
    assert sum(row not in before for row in after) + len(before) - len(after) > 0
    if "replace" not in options:
        left = iter(before)
        assert all(row in left for row in after)  # in the same order


def test_times_say_which_item_is_the_newest_whatever_the_order_of_rows(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards the recommender's targets: with ``newest_first`` the oldest items were protected, the newest dropped."""
    write(tmp_path / "catalog.jsonl", [{"id": str(i), "title": f"Thing {i}, The"} for i in range(30)])
    rows = [(user, (7 * user + time) % 30, time) for user in range(20) for time in (5, 4, 3, 2, 1)]
    log = tmp_path / "log.csv"
    log.write_text("user,item,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows))
    found = []
    for options in ([], ["--newest-first"]):
        out = tmp_path / f"out{len(found)}.csv"
        done = llm4dsr("clean", log, out, "--catalog", tmp_path / "catalog.jsonl", "--edit", "60%", *options)
        assert done.code == 0, done.err
        found.append(out.read_text())
    assert found[0] == found[1]
    assert found[0].count(",5\n") == 20


def test_a_log_that_nobody_edits_keeps_its_bytes(folder: Path, llm4dsr: Call) -> None:
    """Guards: another quoting, another line ending, another order."""
    for name in ("out.csv", "out.csv.gz"):
        assert llm4dsr("clean", folder / "ratings.csv", folder / name, "--threshold", "1").code == 0
    assert (folder / "out.csv").read_bytes() == (folder / "ratings.csv").read_bytes()
    assert gzip.decompress((folder / "out.csv.gz").read_bytes()) == (folder / "ratings.csv").read_bytes()


def test_marks_and_probabilities_are_columns_of_the_log(folder: Path, llm4dsr: Call) -> None:
    """Guards: a mark beside another row than the one that was judged."""
    outcome = llm4dsr(
        "clean", folder / "ratings.csv", folder / "out.csv", "--action", "mark", "--annotate", "--edit", "10%",
        "--audit", folder / "audit.jsonl",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = rows_of(folder / "out.csv")
    assert [*rows[0]] == ["userId", "movieId", "rating", "timestamp", "noise_probability", "noise_flag"]
    flagged = {(row["movieId"], row["noise_probability"]) for row in rows if row["noise_flag"] == "1"}
    edits = read_edits(folder / "audit.jsonl")
    assert len(edits) == N * 6 // 10 == sum(row["noise_flag"] == "1" for row in rows)
    assert flagged == {(edit["from"], str(edit["noise_probability"])) for edit in edits}


def test_scores_of_a_log_are_records_that_apply_reads(folder: Path, llm4dsr: Call) -> None:
    """Guards: scores that only a file of sequences can have."""
    scored, out = folder / "scored.jsonl", folder / "out.jsonl"
    assert llm4dsr("score", folder / "ratings.csv", scored).code == 0
    assert llm4dsr("apply", scored, out, "--catalog", folder / "movies.csv", "--edit", "5%").code == 0
    cleaned = llm4dsr(
        "clean", folder / "in.jsonl", folder / "o.jsonl", "--catalog", folder / "movies.csv", "--no-fusion"
    )
    assert cleaned.code == 0
    assert [one["items"] for one in read(out)] == [one["items"] for one in read(folder / "o.jsonl")]


def test_calibrate_evaluate_and_trial_read_logs(folder: Path, llm4dsr: Call) -> None:
    """Guards: a format that one command reads and the next one does not."""
    gate = folder / "my.gate"
    outcome = llm4dsr("calibrate", folder / "ratings.csv", "--output", gate, "--sequences", "40")
    assert outcome.code == 0, outcome.err
    assert llm4dsr("clean", folder / "ratings.csv", folder / "out.csv", "--gate", gate).code == 0
    outcome = llm4dsr("evaluate", folder / "ratings.csv", "--json")
    assert outcome.code == 0, outcome.err
    trial = ("trial", folder / "ratings.csv", "--recommender", "neighbours", "--edit", "10%", "--action", "drop")
    outcome = llm4dsr(*trial, "--seeds", "1")
    assert outcome.code == 0, outcome.err


def test_a_log_comes_through_a_pipe_where_its_format_is_named(folder: Path, engine: list[str]) -> None:
    """Guards: a shell pipeline, in which no name says what comes."""
    data = (folder / "ratings.csv").read_bytes()
    outcome = run(
        "clean", "-", "-", "--format", "csv", "--catalog", folder / "movies.csv", "--threshold", "1", *engine,
        program=COMMAND, input=data,
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (0, data), outcome.err


@pytest.mark.parametrize("kind", ["csv", "tsv", "movielens", "inter", "parquet"])
def test_a_log_in_a_pipe_is_answered_with_the_option_that_reads_it(folder: Path, engine: list[str], kind: str) -> None:
    """Guards: a page of Python, or pd.read_parquet('stdin'), for what --format does."""
    data = (folder / "ratings.csv").read_bytes()
    if kind == "parquet":
        pandas = pytest.importorskip("pandas")
        data = pandas.read_csv(io.BytesIO(data)).to_parquet()
    elif kind == "inter":
        names = b"user_id:token\titem_id:token\trating:float\ttimestamp:float"
        data = names + data.replace(b",", b"\t")[data.index(b"\r") :]
    elif kind == "movielens":
        data = data[data.index(b"\n") + 1 :].replace(b",", b"::")
    elif kind == "tsv":
        data = data.replace(b",", b"\t")
    command = ["clean", "-", "-", "--catalog", folder / "movies.csv", "--threshold", "1", "--quiet", *engine]
    outcome = run(*command, input=data)
    outcome.failed(1, "stdin", f": add --format {kind}\n")
    outcome = run(*command, *outcome.err.rpartition(": add ")[2].split(), input=data)
    assert outcome.code == 0 and (kind == "parquet" or outcome.out == data), outcome.err


@pytest.mark.parametrize(("command", "target"), [("clean", "out.csv"), ("evaluate", None), ("score", "out.jsonl")])
def test_every_command_names_the_format_of_a_pipe(
    folder: Path, engine: list[str], command: str, target: str | None
) -> None:
    """Guards: "call it out.jsonl", said of a log that is to be a log again."""
    outcome = run(
        command, "-", *([] if target is None else [folder / target]), "--catalog", folder / "movies.csv", "--quiet",
        *engine, input=(folder / "ratings.csv").read_bytes(),
    )  # fmt: skip
    outcome.failed(2 if command == "clean" else 1, "add --format csv")


def test_scored_lines_have_no_other_format(folder: Path, engine: list[str]) -> None:
    """Guards: --format csv as the remedy for `apply`, which reads nothing but what `score` wrote."""
    outcome = run("apply", "-", "-", "--quiet", *engine[:2], input=(folder / "ratings.csv").read_bytes())
    outcome.failed(1, "stdin:1: not JSON but a table")
    assert "--format" not in outcome.err


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("out.jsonl", [], ["would hold CSV, which its name does not say", "out.csv"]),
        ("out.parquet", [], ["would hold CSV"]),
        ("out.csv", ["--user-column", "nobody"], ["no column nobody", "--user-column"]),
        ("out.csv", ["--where", "stars > 3"], ["--where names 'stars'"]),
        ("out.csv", ["--format", "xls"], ["--format is xls: no such format"]),
        ("ratings.csv", [], ["IN and OUT are the same file"]),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(
    folder: Path, llm4dsr: Call, target: str, options: list[str], words: list[str]
) -> None:
    """Guards: an OUT that is named .jsonl and holds CSV; messages that name arguments, not flags."""
    before = files(folder)
    llm4dsr("clean", folder / "ratings.csv", folder / target, "--quiet", *options).failed(2, *words)
    assert files(folder) == before


def test_ids_without_titles_are_not_judged_by_their_digits(folder: Path, llm4dsr: Call) -> None:
    """Guards: ids that are read as if they were titles."""
    (folder / "movies.csv").unlink()
    llm4dsr("clean", folder / "ratings.csv", folder / "out.csv").failed(2, "the log has ids and no titles", "--catalog")


def test_an_unreadable_row_of_a_log_can_be_left_alone(folder: Path, llm4dsr: Call) -> None:
    """Guards: ``--on-error skip`` that a log did not heed; exit codes that say nothing of rows that nobody judged."""
    log, out = folder / "bad.csv", folder / "out.csv"
    bad = b"3,17\n"
    log.write_bytes((folder / "ratings.csv").read_bytes() + bad + b"4,11,2,\n")
    titles = ["--catalog", folder / "movies.csv"]
    assert llm4dsr("clean", log, out, *titles).code == 1
    skips = [*titles, "--on-error", "skip"]
    done = llm4dsr("clean", log, out, *skips, "--edit", "20%", "--report", folder / "report.json")
    assert done.code == 3, done.err
    assert f"stays as it is: {log}:{6 * N + 2}: 2 cells where the header has 4" in done.err
    assert "2 rows stay as they are; 2 of them cannot be read" in done.err
    assert out.read_bytes().endswith(bad + b"4,11,2,\n")
    assert json.loads((folder / "report.json").read_bytes())["counts"]["unread"] == 2
    llm4dsr("clean", folder / "ratings.csv", folder / "good.csv", *titles, "--edit", "20%")
    assert out.read_bytes().startswith((folder / "good.csv").read_bytes())
    assert llm4dsr("score", log, folder / "scored.jsonl", *skips).code == 3
    assert llm4dsr("calibrate", log, "-o", folder / "my.gate", "--user-field", "userId", *skips).code == 3
    assert llm4dsr("evaluate", log, *skips).code == 3
