"""``llm4dsr clean``: what a person, a pipe and a script see of it."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from command_line import COMMAND, PATIENCE, Call, Outcome, call, clean_environment, files, preceded_by, run
from conftest import write_tiny_adapter, write_tiny_base

from llm4dsr_cli import Denoiser, log_odds_of, probability
from llm4dsr_cli.metadata import DenoiserMetadata, open_gguf

WORDS = [
    "Alien",
    "Aliens",
    "The Thing",
    "Blade Runner",
    "Caterpillar",
    "Heat",
    "Amélie",
    "七人の侍",
    "Up",
    "Ratatouille",
]
pty = pytest.importorskip("pty", reason="pipes and terminals of POSIX")
# Pytest may itself run where Ctrl-C is ignored, as background jobs of a shell do; a child would inherit that.
HEEDS_INTERRUPTS = preceded_by("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole module, so that the tiny model is merged once."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(autouse=True)
def environment(own_cache: Path, warm_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)
    monkeypatch.setenv("LLM4DSR_CACHE", str(warm_cache))


@pytest.fixture
def engine(tiny_denoiser: Path) -> list[str]:
    """Options that choose the tiny denoiser."""
    return ["--model", str(tiny_denoiser), "--threads", "1", "--weights", "q8_0"]


@pytest.fixture
def clean(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``clean(IN, OUT, ...)`` in this process, with the tiny denoiser."""
    return lambda *arguments: call(monkeypatch, capfdbinary, "clean", *engine, *arguments)


@pytest.fixture
def clean_quietly(clean: Call) -> Call:
    """The same, saying nothing but what went wrong."""
    return lambda *arguments: clean(*arguments, "--quiet")


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def sequences(n: int, seed: int = 0, longest: int = 9) -> list[list[str]]:
    """n sequences of titles, some longer than the tiny denoiser's window."""
    rng = random.Random(seed)
    return [[f"{rng.choice(WORDS)} {rng.randrange(100)}" for _ in range(rng.randint(1, longest))] for _ in range(n)]


def log_odds_by_library(titles: list[list[str]], model: Path) -> list[np.ndarray]:
    with Denoiser.load(str(model), threads=1, weights="q8_0") as denoiser:
        return list(denoiser.score(titles))


def expected_edits(log_odds: np.ndarray, threshold: float, protect_last: int = 1, most: int | None = None) -> set[int]:
    """The gate again, in other words: the most suspicious of the items above the threshold."""
    free = range(len(log_odds) - protect_last)
    flagged = sorted((i for i in free if log_odds[i] > threshold), key=lambda i: -log_odds[i])
    return set(flagged[: min(len(log_odds) - 1, len(flagged) if most is None else most)])


# --- records in, records out ---------------------------------------------------------------------------------------


def test_drop_takes_what_the_gate_flags_out_of_all_parallel_lists(
    tmp_path: Path, clean: Call, tiny_denoiser: Path
) -> None:
    """Guards: ratings that slide against their items, fields lost or reordered, lines rewritten for nothing."""
    titles = sequences(40)
    records = [
        {
            "user": n,
            "ratings": [i / 2 for i in range(len(t))],
            "items": t,
            "note": "a b",
            "timestamps": [*range(len(t))],
        }
        for n, t in enumerate(titles)
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    # Unusual but valid spacing and escapes: only a line that was left alone still has them.
    lines = [json.dumps(record, separators=(" , ", ":  ")) for record in records]
    source.write_text("\n".join(lines) + "\n")
    outcome = clean(
        source, target, "--threshold", "0.6", "--parallel-field", "ratings", "--parallel-field", "timestamps"
    )
    assert (outcome.code, outcome.out) == (0, b"")
    scores = log_odds_by_library(titles, tiny_denoiser)
    edits = [expected_edits(s, log_odds_of(0.6)) for s in scores]
    assert 10 < sum(bool(edit) for edit in edits) < 40
    results = target.read_text().splitlines()
    assert len(results) == len(records)
    for record, line, result, dropped in zip(records, lines, results, edits, strict=True):
        if not dropped:
            assert result == line
            continue
        kept = [i for i in range(len(record["items"])) if i not in dropped]
        wanted = {
            name: [value[i] for i in kept] if isinstance(value, list) else value for name, value in record.items()
        }
        assert list(json.loads(result).items()) == list(wanted.items())
    total = sum(map(len, edits))
    assert f"dropped {total} items" in outcome.err


def test_mark_leaves_everything_and_flags_what_drop_would_take(
    tmp_path: Path, clean: Call, tiny_denoiser: Path
) -> None:
    """Guards: flags of another gate than drop's, flags not parallel to the items, items lost under mark."""
    titles = sequences(30, seed=1)
    records = [{"items": t, "user": n} for n, t in enumerate(titles)]
    source, target = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl"
    assert clean(source, target, "--action", "mark", "--annotate", "--threshold", "0.6").code == 0
    for record, result, scores in zip(records, read(target), log_odds_by_library(titles, tiny_denoiser), strict=True):
        assert list(result) == ["items", "user", "noise_probability", "noise_flag"]
        assert {name: result[name] for name in record} == record
        flagged = expected_edits(scores, log_odds_of(0.6))
        assert result["noise_flag"] == [int(i in flagged) for i in range(len(scores))]
        assert result["noise_probability"] == pytest.approx(probability(scores).tolist(), abs=1e-5)


def test_annotations_run_parallel_to_the_items_of_the_output(tmp_path: Path, clean: Call, tiny_denoiser: Path) -> None:
    """Guards: probabilities of dropped items kept, which would shift all that follow."""
    titles = sequences(30, seed=2)
    source, target = write(tmp_path / "in.jsonl", [{"items": t} for t in titles]), tmp_path / "out.jsonl"
    assert clean(source, target, "--annotate", "--threshold", "0.6").code == 0
    dropped_any = False
    for sequence, result, scores in zip(titles, read(target), log_odds_by_library(titles, tiny_denoiser), strict=True):
        dropped = expected_edits(scores, log_odds_of(0.6))
        dropped_any |= bool(dropped)
        kept = [i for i in range(len(sequence)) if i not in dropped]
        assert result["items"] == [sequence[i] for i in kept]
        assert result["noise_probability"] == pytest.approx(probability(scores[kept]).tolist(), abs=1e-5)
    assert dropped_any


def shapes(rng: random.Random, n: int) -> Iterator[tuple[str, list[str], list[dict[str, Any]]]]:
    """Name, options and records of each way to write items down."""

    def titles(size: int) -> list[str]:
        return [f"{rng.choice(WORDS)} {rng.randrange(1000)}" for _ in range(size)]

    def record(items: list[Any], **more: list[Any]) -> dict[str, Any]:
        size = len(items)
        fields = {
            "items": items,
            "ratings": [rng.choice([1, 2.5, None, "five"]) for _ in range(size)],
            "timestamps": [rng.randrange(2**70) for _ in range(size)],
            "user_id": rng.choice([7, "7", None, 2**63, 2**80, -1.5, True]),
            "nested": {"b": [1, {"é": '\u2028 \\ " \n'}], "a": 1e-300},
            **more,
        }
        names = list(fields)
        rng.shuffle(names)
        return {name: fields[name] for name in names}

    def size() -> int:
        return rng.choice([0, 1, 2, 3, 5, 8, 13])

    yield "titles", [], [record(titles(size())) for _ in range(n)]
    objects = [
        [{"id": rng.choice([i, str(i), None]), "title": title, "genre": [1, None]} for i, title in enumerate(titles(k))]
        for k in (size() for _ in range(n))
    ]
    yield "objects", [], [record(items) for items in objects]
    bare = [[{"title": title} for title in titles(size())] for _ in range(n)]
    yield "objects without ids", [], [record(items) for items in bare]
    ids = [[rng.randrange(50) for _ in range(size())] for _ in range(n)]
    yield "integer ids", ["--catalog"], [record(items) for items in ids]
    texts = [[str(i) for i in items] for items in ids]
    yield "string ids", ["--catalog"], [record(items) for items in texts]
    mixed = [[{"id": i} if i % 2 else {"id": str(i), "title": "own title"} for i in items] for items in ids]
    yield "objects with ids", ["--catalog"], [record(items) for items in mixed]
    beside = [record(items, item_titles=titles(len(items))) for items in ids]
    yield "ids beside titles", ["--titles-field", "item_titles"], beside


def test_the_audit_is_enough_to_undo_a_run(tmp_path: Path, clean: Call) -> None:
    """Guards: an edit that cannot be taken back: ids of another type, parallel values lost, positions off."""
    rng = random.Random(3)
    catalog = write(tmp_path / "catalog.jsonl", [{"id": i, "title": f"{rng.choice(WORDS)} {i}"} for i in range(50)])
    source, target, audit = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "audit.jsonl"))
    for name, options, records in shapes(rng, 60):
        write(source, records)
        outcome = clean(
            source, target, "--audit", audit, "--threshold", "0.5", "--protect-last", "0",
            "--parallel-field", "ratings", "--parallel-field", "timestamps",
            *([*options, catalog] if options == ["--catalog"] else options),
        )  # fmt: skip
        assert outcome.code == 0, (name, outcome.err)
        edits: dict[int, list[dict[str, Any]]] = {}
        for edit in read(audit):
            edits.setdefault(edit["output_line"], []).append(edit)
        assert 10 < len(edits) < len(records), name
        pairs = zip(source.read_bytes().splitlines(), target.read_bytes().splitlines(), strict=True)
        for number, (before, after) in enumerate(pairs, 1):
            rebuilt = json.loads(after)
            for edit in sorted(edits.get(number, []), key=lambda edit: edit["position"]):
                assert edit["record"] == f"{source}:{number}"
                assert edit["noise_probability"] > edit["threshold"] == 0.5
                rebuilt["items"].insert(edit["position"], edit["from"])
                for field, value in edit["parallel"].items():
                    rebuilt[field].insert(edit["position"], value)
            # As text, since 1 == 1.0 == True and objects compare whatever their order.
            assert json.dumps(rebuilt) == json.dumps(json.loads(before)), name
            if number not in edits:
                assert after == before


def test_a_gate_that_is_looser_edits_more(tmp_path: Path, clean: Call) -> None:
    """Guards: a threshold or rate that is read upside down."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(40, seed=4)])

    def edited(*options: object) -> set[tuple[int, int]]:
        audit = tmp_path / "audit.jsonl"
        assert clean(source, tmp_path / "out.jsonl", "--audit", audit, *options).code == 0
        return {(edit["output_line"], edit["position"]) for edit in read(audit)}

    by_threshold = [edited("--threshold", p) for p in (1, 0.95, 0.7, 0.3)]
    by_rate = [edited("--false-edit-rate", rate) for rate in (0.001, 0.05, 0.4)]
    for edits in (by_threshold, by_rate):
        for strict, loose in itertools.pairwise(edits):
            assert strict < loose
    assert by_threshold[0] == set()
    assert edited() == edited("--false-edit-rate", 0.01)


def test_the_false_edit_rate_is_the_denoisers_calibrated_threshold(
    tmp_path: Path, clean: Call, tiny_denoiser: Path
) -> None:
    """Guards: a rate used as a threshold, or a calibration that is not the file's own."""
    source, report = write(tmp_path / "in.jsonl", [{"items": ["a", "b"]}]), tmp_path / "report.json"
    assert clean(source, tmp_path / "out.jsonl", "--report", report, "--false-edit-rate", "0.05").code == 0
    gate = json.loads(report.read_bytes())["gate"]
    calibration = DenoiserMetadata.read(open_gguf(tiny_denoiser), tiny_denoiser).calibration
    assert calibration is not None
    assert gate["threshold"] == pytest.approx(probability(np.array(calibration.threshold(0.05))))
    assert gate["false_edit_rate"] == 0.05


def test_limits_of_the_gate_hold(tmp_path: Path, clean: Call, tiny_denoiser: Path) -> None:
    """Guards: the recommender's target edited, more edits than allowed, or others than the most suspicious."""
    titles = sequences(40, seed=5)
    source, audit = write(tmp_path / "in.jsonl", [{"items": t} for t in titles]), tmp_path / "audit.jsonl"
    scores = log_odds_by_library(titles, tiny_denoiser)
    for options, protected, most in [
        (["--protect-last", 0], 0, lambda n: n),
        (["--protect-last", 3], 3, lambda n: n),
        (["--max-edits", 1], 1, lambda n: 1),
        (["--max-edits", 0.3, "--protect-last", 2], 2, lambda n: int(0.3 * n)),
        (["--max-edits", 0], 1, lambda n: 0),
    ]:
        assert clean(source, tmp_path / "out.jsonl", "--audit", audit, "--threshold", 0.4, *options).code == 0
        found = {(edit["output_line"] - 1, edit["position"]) for edit in read(audit)}
        wanted = {
            (n, i) for n, s in enumerate(scores) for i in expected_edits(s, log_odds_of(0.4), protected, most(len(s)))
        }
        assert found == wanted, options
        assert bool(found) == (options != ["--max-edits", 0])


def test_a_report_tells_what_was_done_and_by_what(tmp_path: Path, clean: Call, tiny_denoiser: Path) -> None:
    """Guards: a report that does not let a run be repeated, or counts that contradict the output."""
    from hashlib import sha256
    from importlib.metadata import version

    titles = sequences(20, seed=6)
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in titles])
    target, audit, report = tmp_path / "out.jsonl", tmp_path / "audit.jsonl", tmp_path / "report.json"
    with source.open("a") as file:
        file.write("not a record\n")
    options = ["--threshold", 0.6, "--max-edits", 2, "--audit", audit, "--report", report, "--on-error", "skip"]
    assert clean(source, target, *options).code == 3
    found = json.loads(report.read_bytes())
    before, after = sum(map(len, titles)), sum(len(record["items"]) for record in read(target))
    assert found["counts"] == {
        "records": 20,
        "items": before,
        "edited_records": len({edit["output_line"] for edit in read(audit)}),
        "edited_items": before - after,
        "skipped": 1,
    }
    assert before > after
    gate = found["gate"]
    assert gate.pop("threshold") == pytest.approx(0.6)
    assert gate == {"false_edit_rate": None, "max_edits": 2, "protect_last": 1}
    assert found["action"] == "drop"
    assert found["model"]["name"] == "tiny-denoiser"
    assert found["model"]["sha256"] == sha256(tiny_denoiser.read_bytes()).hexdigest()
    assert found["versions"] == {name: version(name) for name in ("llm4dsr-cli", "llama-cpp-python")}
    assert 0 < found["seconds"] < PATIENCE


# --- streams -------------------------------------------------------------------------------------------------------


def next_line(stream: IO[bytes]) -> bytes:
    """The next line of a pipe, or what has arrived of it when patience ends."""
    line, deadline = b"", time.monotonic() + PATIENCE
    while not line.endswith(b"\n") and time.monotonic() < deadline:
        if select.select([stream], [], [], 0.1)[0]:
            byte = os.read(stream.fileno(), 1)
            if not byte:
                break
            line += byte
    return line


def test_a_line_comes_out_before_the_next_one_goes_in(engine: list[str]) -> None:
    """Guards: a service that waits for its answer until 64 records, or a full buffer, have gathered."""
    command = [*COMMAND, "clean", "-", "-", *engine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        for n in range(3):
            line = json.dumps({"n": n, "items": ["Alien"]}).encode() + b"\n"
            process.stdin.write(line)
            process.stdin.flush()
            assert next_line(process.stdout) == line
            assert process.poll() is None
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read().decode().splitlines()[-1].startswith("3 records, 3 items")


def test_files_pipes_and_gzip_give_the_same_bytes_each_time(tmp_path: Path, clean: Call, engine: list[str]) -> None:
    """Guards: results that depend on the run, on the kind of file or on hash seeds."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(150, seed=7)])
    target = tmp_path / "out.jsonl"
    options = ["--annotate", "--threshold", "0.6"]
    assert clean(source, target, *options).code == 0
    wanted = target.read_bytes()
    with source.open("rb") as stdin:
        piped = run("clean", "-", "-", *options, *engine, stdin=stdin)
    assert (piped.code, piped.out) == (0, wanted)
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    once, again = tmp_path / "once.jsonl.gz", tmp_path / "again.jsonl.gz"
    assert clean(packed, once, *options).code == clean(source, again, *options).code == 0
    assert gzip.decompress(once.read_bytes()) == wanted
    assert once.read_bytes() == again.read_bytes()


def test_a_reader_who_leaves_early_gets_no_complaint(tmp_path: Path, engine: list[str]) -> None:
    """Guards: a traceback after ``llm4dsr clean IN - | head -1``."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(5000, seed=8)])
    command = [*COMMAND, "clean", str(source), "-", "--quiet", *engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert json.loads(next_line(process.stdout))
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize("silent", [False, True], ids=["in a long file", "waiting for a silent pipe"])
def test_an_interrupt_is_one_sentence_and_leaves_the_target(tmp_path: Path, engine: list[str], silent: bool) -> None:
    """Guards: half a result in the target's place, litter beside it, a traceback, or a bare exit code."""
    folder = tmp_path / "results"
    folder.mkdir()
    target, audit = folder / "out.jsonl", folder / "audit.jsonl"
    target.write_bytes(b"before")
    source = "-" if silent else write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(40_000, seed=9)])
    command = [*HEEDS_INTERRUPTS, "clean", str(source), str(target), "--audit", str(audit), "--quiet", *engine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stderr
        deadline = time.monotonic() + PATIENCE
        while not (folder.is_dir() and len(files(folder)) > 2) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == b"llm4dsr: interrupted\n"
    assert files(folder) == {"out.jsonl": b"before"}


def on_a_terminal(arguments: list[str], **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a run whose standard error is a terminal."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment}
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, env=variables
    ) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # how Linux says that the other side was closed
                piece = b""
            if not piece:
                break
            text += piece
        os.close(ours)
        return process.wait(PATIENCE), text.decode()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-9]|9[0-7])(?:;\d+)*m")


def test_a_terminal_sees_progress(tmp_path: Path, engine: list[str]) -> None:
    """Guards: minutes of silence; and escape codes for people who asked for none."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(300, seed=10)])
    arguments = ["clean", str(source), str(tmp_path / "out.jsonl"), *engine]
    code, text = on_a_terminal(arguments)
    assert code == 0
    assert re.search(r"[\d,]+ records, \d+/s", text)
    assert re.search(r"\d:\d\d left", text)
    assert COLOUR.search(text)
    for options, environment in ((["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})):
        code, text = on_a_terminal([*arguments, *options], **environment)
        assert code == 0 and not COLOUR.search(text)
    assert on_a_terminal([*arguments, "--quiet"]) == (0, "")


def test_a_log_file_sees_no_progress(tmp_path: Path, clean: Call, clean_quietly: Call) -> None:
    """Guards: escape codes and hundreds of bars in a log."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(200, seed=11)])
    assert clean(source, tmp_path / "out.jsonl").code == 0
    outcome = clean(source, tmp_path / "out.jsonl")
    assert re.fullmatch(r"200 records, [\d,]+ items: dropped .+ s\n", outcome.err)
    assert clean_quietly(source, tmp_path / "out.jsonl") == Outcome(0, b"", "")


def test_the_first_use_says_that_it_merges_and_the_second_does_not(
    tmp_path: Path, tiny_denoiser: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: a silent wait, a merge at every start, and variables of the environment that are not read."""
    monkeypatch.setenv("LLM4DSR_CACHE", str(own_cache))
    monkeypatch.setenv("LLM4DSR_MODEL", str(tiny_denoiser))
    monkeypatch.setenv("LLM4DSR_THREADS", "1")
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien", "Heat"]}])
    first, second = run("clean", source, "-"), run("clean", source, "-")
    assert first.code == second.code == 0
    assert "first use of tiny-denoiser" in first.err
    assert second.err.count("\n") == 1
    assert first.out == second.out
    assert len([*(own_cache / "runtime").iterdir()]) == 1
    (merged,) = (own_cache / "runtime").iterdir()
    assert run("clean", source, "-", "--model", merged).out == first.out


# --- lines that are no records ---------------------------------------------------------------------------------------

GOOD = [b'{"items": ["Alien"], "n": 0}', b'{"items": [{"title": "Heat"}]}', b'{"n": 1, "items": []}']
BAD = [
    b"not json",
    b'{"items": ["caf\xe9"]}',
    b"[1, 2]",
    b'{"products": ["Alien"]}',
    b'{"items": [1, 2]}',
    b'{"items": ["Alien", {"title": "Heat"}]}',
    b'{"items": ["Alien", "  "]}',
    b'{"items": "Alien"}',
    b'{"items": ["Alien"]',
    b'{"items": [null]}',
    b'{"items": ["\\ud800"]}',
    b" null ",
]


def test_skipping_goes_on_and_keeps_the_rejects(tmp_path: Path, clean: Call) -> None:
    """Guards: a bad line that stops a night's run, or one that is lost, altered or not told of."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [line for i, bad in enumerate(BAD) for line in (bad, GOOD[i % 3])]
    source.write_bytes(b"\n".join(lines) + b"\n")
    outcome = clean(source, target, "--on-error", "skip", "--threshold", 1)
    assert (outcome.code, outcome.out) == (3, b"")
    assert target.read_bytes().splitlines() == lines[1::2]
    rejects = tmp_path / "out.jsonl.rejects.jsonl"
    assert rejects.read_bytes() == b"\n".join(BAD) + b"\n"
    told = [line for line in outcome.err.splitlines() if line.startswith("skipped ")]
    assert len(told) == 11  # ten of them, and the sum
    assert told[0].startswith(f"skipped {source}:1: not JSON") and told[1].startswith(f"skipped {source}:3: not UTF-8")
    assert told[-1] == f"skipped 12 lines that are no records; they are in {rejects}"


def test_skipping_nothing_is_success_and_leaves_no_rejects_of_an_earlier_run(tmp_path: Path, clean: Call) -> None:
    """Guards: exit code 3 when all went well, or yesterday's rejects that pass for today's."""
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join(GOOD))
    (tmp_path / "out.jsonl.rejects.jsonl").write_bytes(b"of an earlier run\n")
    assert clean(source, tmp_path / "out.jsonl", "--on-error", "skip").code == 0
    assert (tmp_path / "out.jsonl.rejects.jsonl").read_bytes() == b""


def test_a_record_that_has_the_added_field_already_is_skipped_too(tmp_path: Path, clean_quietly: Call) -> None:
    """Guards: ``--on-error skip`` that stops after all, at a line that cannot be annotated."""
    bad, good = b'{"items": ["Alien"], "noise_flag": [0]}', b'{"items": ["Heat", "Up"]}'
    source, target, rejects = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "rejects"
    source.write_bytes(good + b"\n" + bad + b"\n" + good + b"\n")
    options = ["--action", "mark", "--threshold", 0, "--audit", tmp_path / "audit.jsonl"]
    clean_quietly(source, target, *options).failed(1, f"{source}:2: ", '"noise_flag" already')
    assert set(files(tmp_path)) == {"in.jsonl"}
    assert clean_quietly(source, target, *options, "--on-error", "skip", "--rejects", rejects).code == 3
    assert rejects.read_bytes() == bad + b"\n"
    assert [record["noise_flag"] for record in read(target)] == [[1, 0]] * 2
    edits = read(tmp_path / "audit.jsonl")
    assert [(edit["record"], edit["output_line"]) for edit in edits] == [(f"{source}:1", 1), (f"{source}:3", 2)]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("bad", BAD)
def test_by_default_a_bad_line_stops_the_run_and_changes_nothing(
    tmp_path: Path, clean_quietly: Call, bad: bytes, exists: bool
) -> None:
    """Guards: a result that is short of records without a word, or an error that does not say where."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join([GOOD[0], b"", bad, GOOD[1]]))
    if exists:
        target.write_bytes(b"before")
    before = files(tmp_path)
    clean_quietly(source, target, "--audit", tmp_path / "a", "--report", tmp_path / "r").failed(1, f" {source}:3: ")
    assert files(tmp_path) == before


# --- what is unusual but right ---------------------------------------------------------------------------------------


def test_inputs_with_nothing_to_do_come_out_as_they_are(tmp_path: Path, clean: Call) -> None:
    """Guards: an error, or a division by zero, for no records, no items, or one item, which is always kept."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    everything = ["--threshold", 0, "--protect-last", 0]
    for content in (b"", b"\n\n", b'{"items": []}\n', b'{"items": ["Alien"]}\n{"items": []}\n'):
        source.write_bytes(content)
        outcome = clean(source, target, *everything, "--report", tmp_path / "report.json")
        assert outcome.code == 0
        assert target.read_bytes() == content.lstrip()
    source.write_bytes(b'{"items": ["Alien", "Heat", "Up"]}\n')
    assert clean(source, target, *everything).code == 0
    assert len(read(target)[0]["items"]) == 1


def test_titles_of_strangers_are_only_text(tmp_path: Path, clean: Call) -> None:
    """Guards: control tokens read out of titles, line breaks that shift all later probes, and long titles or lines."""
    tricky = [
        "Alien<|im_end|>",
        "<|endoftext|>",
        "one\nof\r\nmany\u2028lines\x00\x1b[31m",
        "x" * 5000,
        "\u200b\u200d",
        "A " * 2_500_000,
        "🎬" * 40,
    ]
    plain = [json.dumps({"items": [title, "Heat", title]}).encode() for title in tricky]
    heavy = json.dumps({"blob": "y" * 10_000_000, "items": ["Alien", "Heat"]}).encode()
    many = json.dumps({"items": [f"title {n}" for n in range(3000)]}).encode()
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join([*plain, heavy, many, b""]))
    assert clean(source, target, "--threshold", 1).code == 0
    assert target.read_bytes() == source.read_bytes()
    assert clean(source, target, "--annotate", "--action", "mark", "--threshold", 1).code == 0
    for before, after in zip(read(source), read(target), strict=True):
        chances = after["noise_probability"]
        assert len(chances) == len(before["items"])
        assert all(0 <= chance <= 1 for chance in chances)


def test_file_names_need_not_be_unicode(tmp_path: Path, clean: Call) -> None:
    """Guards: a traceback when the audit is to name such a file."""
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    try:
        source.write_bytes(b'{"items": ["Alien", "Heat"]}\n')
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert clean(source, tmp_path / "out.jsonl", "--threshold", 0, "--audit", tmp_path / "audit").code == 0
    assert read(tmp_path / "audit")[0]["record"].endswith("/caf?.jsonl:1")


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [{"items": ["Alien", "Heat", "Up"]}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", 0.9, "--false-edit-rate", 0.01], ["--threshold", "--false-edit-rate"]),
        (["--action", "replace"], ["--action replace", "drop"]),
        (["--action", "foo"], ["--action foo", "drop", "mark"]),
        (["--on-error", "foo"], ["--on-error foo", "skip"]),
        (["--weights", "foo"], ["--weights foo", "q8_0"]),
        (["--threads", 0], ["--threads 0"]),
        (["--threads", -1], ["--threads -1"]),
        (["--threshold", 1.5], ["--threshold 1.5"]),
        (["--threshold", "nan"], ["--threshold nan"]),
        (["--false-edit-rate", 0], ["--false-edit-rate 0"]),
        (["--false-edit-rate", 1], ["--false-edit-rate 1"]),
        (["--max-edits", -1], ["--max-edits -1"]),
        (["--max-edits", 1.5], ["--max-edits 1.5"]),
        (["--max-edits", "inf"], ["--max-edits inf"]),
        (["--protect-last", -1], ["--protect-last -1"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, source: Path, clean_quietly: Call, options: list[object], words: list[str]
) -> None:
    """Guards: a slip of the keyboard that is taken for something else, or answered with a traceback."""
    clean_quietly(source, tmp_path / "out.jsonl", *options).failed(2, *words)
    assert set(files(tmp_path)) == {"in.jsonl"}


@pytest.mark.parametrize(
    "arguments", [[], ["only-one"], ["a", "b", "c"], ["a", "b", "--no-such"], ["a", "b", "--threshold", "many"]]
)
def test_usage_errors_are_not_failures(arguments: list[str], clean: Call) -> None:
    """Guards: exit code 1, or a traceback, for a command that was mistyped."""
    outcome = clean(*arguments)
    assert (outcome.code, outcome.out) == (2, b"")
    assert "Traceback" not in outcome.err and "Error: " in outcome.err and "llm4dsr clean -h" in outcome.err


def test_paths_that_cannot_work_are_refused_before_anything_is_written(
    tmp_path: Path, source: Path, clean_quietly: Call, tiny_denoiser: Path
) -> None:
    """Guards: an input or a model that is overwritten, and hours of work for an output that cannot be written."""
    target, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    catalog = write(tmp_path / "catalog.jsonl", [{"id": 1, "title": "Alien"}])
    link.symlink_to(source)
    before, model = files(tmp_path), tiny_denoiser.read_bytes()
    clean_quietly(source, source).failed(2, "IN and OUT", str(source))
    clean_quietly(source, link).failed(2, "IN and OUT")
    clean_quietly(source, catalog, "--catalog", catalog).failed(2, "--catalog and OUT")
    clean_quietly(source, tiny_denoiser).failed(2, "--model and OUT")
    clean_quietly(source, target, "--audit", target).failed(2, "OUT and --audit")
    clean_quietly(source, "-", "--audit", "-").failed(2, "OUT and --audit", "standard output")
    clean_quietly(source, target, "--report", source).failed(2, "IN and --report")
    clean_quietly(source, "-", "--on-error", "skip").failed(2, "--rejects")
    clean_quietly(tmp_path / "missing.jsonl", target).failed(1, "missing.jsonl: no such file")
    clean_quietly(tmp_path, target).failed(1, "is a folder")
    clean_quietly(source, target, "--catalog", tmp_path / "missing.csv").failed(1, "missing.csv: no such file")
    clean_quietly(source, tmp_path / "missing" / "out.jsonl").failed(1, "folder is missing", "mkdir -p")
    clean_quietly(source, target, "--audit", tmp_path / "missing" / "audit").failed(1, "folder is missing")
    clean_quietly(source, tmp_path).failed(1, "is a folder")
    assert files(tmp_path) == before
    assert tiny_denoiser.read_bytes() == model


def test_a_terminal_is_not_waited_for(engine: list[str]) -> None:
    """Guards: a command that seems to hang because it waits for somebody to type JSON."""
    ours, theirs = pty.openpty()
    try:
        run("clean", "-", "-", *engine, stdin=theirs).failed(2, "standard input is a terminal")
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_the_catalog_lacks_is_told_with_its_place(tmp_path: Path, clean_quietly: Call) -> None:
    """Guards: an id taken for a title, or a catalog that contradicts itself and is believed."""
    source, target, catalog = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "catalog.jsonl"
    write(catalog, [{"id": 1, "title": "Alien"}, {"id": 2, "title": None}])
    for items, words in (([1, 99], "id 99 is not in the catalog"), ([1, 2], "id 2 has no title")):
        write(source, [{"items": [1]}, {"items": items}])
        clean_quietly(source, target, "--catalog", catalog).failed(1, f"{source}:2: ", words)
    write(source, [{"items": [1]}])
    clean_quietly(source, target).failed(1, f"{source}:1: ", "--catalog")
    write(catalog, [{"id": 1, "title": "Alien"}, {"id": 2, "title": "Heat"}, {"id": "1", "title": "Aliens"}])
    clean_quietly(source, target, "--catalog", catalog).failed(1, f"{catalog}:3: ", "line 1")
    assert not target.exists()


def test_fields_that_do_not_fit_are_told(tmp_path: Path, clean_quietly: Call) -> None:
    """Guards: lists cut to the shorter one, or a field name that is wrong and ignored."""
    source = write(tmp_path / "in.jsonl", [{"ids": ["Alien", "Heat"], "ratings": [1]}])
    target = tmp_path / "out.jsonl"
    clean_quietly(source, target).failed(1, '"items" is missing', "--items-field")
    options = ["--items-field", "ids"]
    clean_quietly(source, target, *options, "--parallel-field", "ratings").failed(1, "1 entries", "2")
    clean_quietly(source, target, *options, "--parallel-field", "stars").failed(1, '"stars" is missing')
    clean_quietly(source, target, *options, "--titles-field", "ratings").failed(1, '"ratings" has 1 entries')
    assert clean_quietly(source, target, *options).code == 0


def test_models_that_do_not_fit_are_refused(tmp_path: Path, source: Path, tiny_base: Path, clean_quietly: Call) -> None:
    """Guards: an adapter merged into weights it was not made for, and files that are no denoisers."""
    target = tmp_path / "out.jsonl"
    other, lost = tmp_path / "other.gguf", tmp_path / "lost.gguf"
    write_tiny_base(other, seed=9)
    write_tiny_adapter(lost, other)
    clean_quietly(source, target, "--base", other).failed(1, "another base model")
    clean_quietly(source, target, "--base", tmp_path / "missing.gguf").failed(1, "missing.gguf")
    clean_quietly(source, target, "--base", "no-such-base").failed(1, "no-such-base")
    clean_quietly(source, target, "--base", source).failed(1, "not a GGUF")
    other.unlink()
    assert not target.exists()

    clean_quietly(source, target, "--model", lost).failed(1, str(lost), "other.gguf", "--base")


def test_a_model_can_be_wrong_in_many_ways(
    tmp_path: Path, source: Path, tiny_base: Path, tiny_denoiser: Path, clean_quietly: Call
) -> None:
    """Guards: numpy's or llama.cpp's words, or a traceback, for a download that broke off or a wrong file."""
    target, model = tmp_path / "out.jsonl", tmp_path / "model.gguf"

    def clean(*options: object) -> Outcome:
        return clean_quietly(source, target, "--model", *options)

    clean(tiny_base).failed(1, str(tiny_base), "no denoiser", "llm4dsr finetune")
    clean("no-such-model").failed(1, "no-such-model")
    clean(tmp_path / "missing.gguf").failed(1, "missing.gguf", "no such model file")
    clean(source).failed(1, str(source))
    clean(tmp_path).failed(1)
    whole = tiny_denoiser.read_bytes()
    for size in [0, 3, 4, 8, 20, *range(24, 9000, 311), len(whole) // 2, len(whole) - 1]:
        model.write_bytes(whole[:size])
        clean(model).failed(1, str(model))
    base = tmp_path / "base.gguf"
    base.write_bytes(tiny_base.read_bytes()[:-1000])
    clean(tiny_denoiser, "--base", base).failed(1, str(base))
    base.write_bytes(b"")
    clean(tiny_denoiser, "--base", base).failed(1, str(base))
    write_tiny_adapter(model, tiny_base, calibrated=False)
    clean(model).failed(1, "no calibration", "--threshold")
    write_tiny_adapter(model, tiny_base, seed=2)
    model.write_bytes(model.read_bytes().replace(str(tiny_base).encode(), b"x" * len(str(tiny_base))))
    clean(model).failed(1, "xxx")
    assert not target.exists()


def test_a_damaged_merged_model_is_refused(
    tmp_path: Path,
    source: Path,
    tiny_denoiser: Path,
    clean_quietly: Call,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards: llama.cpp's log, or a crash, for a file in the cache that was cut short."""
    monkeypatch.setenv("LLM4DSR_CACHE", str(own_cache))
    assert clean_quietly(source, tmp_path / "out.jsonl").code == 0
    (tmp_path / "out.jsonl").unlink()
    (merged,) = (own_cache / "runtime").iterdir()
    merged.write_bytes(merged.read_bytes()[:-3000])
    clean_quietly(source, tmp_path / "out.jsonl").failed(1, str(merged))
    assert set(files(tmp_path)) == {"in.jsonl"}


def test_offline_means_no_network(
    tmp_path: Path, source: Path, clean_quietly: Call, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: a download that was forbidden."""
    monkeypatch.setenv("LLM4DSR_CACHE", str(own_cache))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    target = tmp_path / "out.jsonl"
    for reference in ("smollm2-135m-instruct", "hf:org/repo/file.gguf"):
        clean_quietly(source, target, "--base", reference, "--offline").failed(1, reference, "not on this machine")
        with monkeypatch.context() as context:
            context.setenv("LLM4DSR_OFFLINE", "1")
            clean_quietly(source, target, "--base", reference).failed(1, reference, "not on this machine")
    assert not target.exists()


needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@needs_full_device
def test_a_full_disk_is_one_sentence(source: Path, tmp_path: Path, clean_quietly: Call, engine: list[str]) -> None:
    """Guards: success that was none, and complaints of Python at its end."""
    clean_quietly(source, "/dev/full").failed(1, "/dev/full: no space left", "free some space")
    clean_quietly(source, tmp_path / "out", "--audit", "/dev/full", "--threshold", 0).failed(1, "/dev/full: no space")
    assert set(files(tmp_path)) == {"in.jsonl"}
    with Path("/dev/full").open("wb") as full:
        run("clean", source, "-", "--quiet", *engine, stdout=full).failed(1, "stdout: no space left")


def test_a_cache_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, source: Path, engine: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: half a merged model that the next run would take for a whole one."""
    monkeypatch.setenv("LLM4DSR_CACHE", str(own_cache))
    small = preceded_by("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))")
    arguments = ["clean", source, tmp_path / "out.jsonl", "--quiet", *engine]
    run(*arguments, program=small).failed(1, str(own_cache), "free some space")
    run(*arguments, "--weights", "auto", program=small).failed(1, str(own_cache), "free some space")
    assert [*(own_cache / "runtime").iterdir()] == []
    monkeypatch.setenv("LLM4DSR_CACHE", str(source))
    run(*arguments).failed(1, str(source), "LLM4DSR_CACHE")
    assert set(files(tmp_path)) == {"in.jsonl"}
