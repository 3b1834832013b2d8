"""``llm4dsr trial``: sequences in, a verdict out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call, call, files, read, write

from llm4dsr_cli.commands.trial import _phases

pytestmark = pytest.mark.usefixtures("warm_environment")

SHORT = ("--recommender", "neighbours", "--edit", "10%", "--seeds", "2")


@pytest.fixture
def trial(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    return lambda *arguments: call(monkeypatch, capfdbinary, "trial", *engine, *arguments)


def records(n: int = 40) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"user_id": user, "items": [f"Film {i}" for i in rng.permutation(30)[: rng.integers(5, 9)]]}
        for user in range(n)
    ]


def test_a_trial_ends_with_one_plain_sentence_and_writes_every_setting(tmp_path: Path, trial: Call) -> None:
    """Guards figures without intervals or control, and an end that says neither yes nor no."""
    source, out = write(tmp_path / "in.jsonl", records()), tmp_path / "out.json"
    outcome = trial(source, *SHORT, "--action", "drop", "--action", "replace", "--action", "weigh", "--json", out)
    assert outcome.code == 0, outcome.err
    last = outcome.out.decode().splitlines()[-1]
    found = json.loads(out.read_bytes())
    assert [one["name"] for one in found["settings"]] == ["drop 10%", "replace 10%", "weigh 10%"]
    for one in found["settings"]:
        for estimate in (one, one["random"]):
            low, high = estimate["interval"]
            assert low <= estimate["gain"] <= high
        assert one["edits"] > 0
        assert set(one["recommenders"]["neighbours"]) == {"NDCG@10", "NDCG@20", "HR@10", "HR@20"}
    verdict = found["verdict"]
    assert last.startswith(verdict["sentence"])
    assert last.startswith("no setting helps measurably on these data") == (not verdict["helps"])
    assert (verdict["command"] is None) == (not verdict["helps"])


def test_a_second_run_goes_on_from_what_the_first_kept(tmp_path: Path, trial: Call) -> None:
    """Guards a state that is not found again, and a trial that changes its input."""
    source = write(tmp_path / "in.jsonl", records())
    before = source.read_bytes()
    first = trial(source, *SHORT, "--action", "drop")
    assert first.code == 0, first.err
    folder = tmp_path / "in.jsonl.trial"
    kept = files(folder)
    assert any(name.startswith("fit-") for name in kept) and any(name.startswith("scores-") for name in kept)
    second = trial(source, *SHORT, "--action", "drop")
    assert second.out == first.out
    assert files(folder) == kept
    assert source.read_bytes() == before
    elsewhere = trial(source, *SHORT, "--action", "drop", "--state", tmp_path / "elsewhere", "--seeds", "1")
    assert elsewhere.code == 0
    assert files(tmp_path / "elsewhere")


def test_the_command_that_is_named_edits_as_many_items(
    tmp_path: Path, trial: Call, clean: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a command that does something else: another share, another action, or targets that it edits."""
    from llm4dsr_cli.trial.compare import Compared

    monkeypatch.setattr(Compared, "helps", True)
    monkeypatch.setattr("llm4dsr_cli.trial.run.chosen", lambda compared: compared[0])
    source = write(tmp_path / "in.jsonl", records(60))
    outcome = trial(
        source, *SHORT, "--action", "drop", "--json", tmp_path / "t.json", "--max-edits", "3", "--on-error", "skip"
    )
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "t.json").read_bytes())
    words = found["verdict"]["command"].split()
    assert words[:4] == ["llm4dsr", "clean", str(source), "OUT"]
    assert words[-2:] == ["--protect-last", "2"]
    assert words[words.index("--max-edits") + 1] == "3.0" and words[words.index("--on-error") + 1] == "skip"
    assert outcome.out.decode().splitlines()[-1].endswith(found["verdict"]["command"])
    target = tmp_path / "out.jsonl"
    options = [word for word in words[4:] if word != "q8_0"]
    assert clean(source, target, *options[options.index("--edit") :]).code == 0
    n_edited = sum(len(record["items"]) for record in records(60)) - sum(len(one["items"]) for one in read(target))
    assert abs(n_edited - found["settings"][0]["edits"]) <= 2
    assert all(one["items"][-2:] == before["items"][-2:] for one, before in zip(read(target), records(60), strict=True))


def test_options_out_of_range_are_one_sentence(tmp_path: Path, trial: Call) -> None:
    """Guards a trial that fails after the scoring."""
    source = write(tmp_path / "in.jsonl", records())
    trial(source, "--recommender", "sasrek").failed(2, "--recommender is sasrek", "choose ease")
    trial(source, "--edit", "0").failed(2, "--edit is 0", "between 0 and 1")
    trial(source, "--action", "mark").failed(2, "--action is mark", "choose drop")
    trial(source, "--seeds", "0").failed(2, "--seeds is 0")
    trial(source, "--time-budget", "soon").failed(2, "--time-budget soon", "2h")
    trial(source, "--histories", "dirty").failed(2, "--histories dirty", "as-is")
    trial(source, "--json", source).failed(2, "--json")
    trial(source, "--plot", tmp_path / "plot.txt").failed(2, ".png")
    trial(source, *SHORT, "--split", "time", "--quiet").failed(2, "--split is time", "--time-field")
    trial(source, *SHORT, "--split", "random", "--quiet").failed(2, "--split is random", "leave-two-out")
    few = write(tmp_path / "few.jsonl", records(5))
    trial(few, *SHORT, "--quiet").failed(2, "too few")
    assert not (tmp_path / "few.jsonl.trial").exists()


def test_a_split_by_time_takes_the_times_of_the_items(tmp_path: Path, trial: Call) -> None:
    """Guards times that are read from another list, or not at all."""
    rng = np.random.default_rng(1)
    timed = [
        {**record, "when": np.sort(rng.integers(0, 1000, len(record["items"]))).tolist()} for record in records(120)
    ]
    source = write(tmp_path / "in.jsonl", timed)
    outcome = trial(source, *SHORT, "--split", "time", "--time-field", "when", "--action", "drop")
    assert outcome.code == 0, outcome.err
    timed[3]["when"] = "yesterday"
    broken = write(tmp_path / "broken.jsonl", timed)
    trial(broken, *SHORT, "--split", "time", "--time-field", "when", "--quiet").failed(1, "broken.jsonl:4", "when")


def test_each_part_of_the_work_has_its_own_time_left() -> None:
    """Guards hours that are said to be left because an earlier part took long."""
    told: list[list[float | None]] = []

    class Telling:
        @contextmanager
        def progress(self) -> Iterator[Any]:
            told.append([])
            yield lambda text, fraction: told[-1].append(fraction)

    with _phases(Telling()) as advance:  # type: ignore[arg-type]
        for fraction in (0.5, 1.0, 0.1, None, 0.2, 1.0, 0.5):
            advance("", fraction)
    assert told == [[0.5, 1.0], [0.1, None, 0.2, 1.0], [0.5]]
