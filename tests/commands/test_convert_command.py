"""``llm4dsr convert``: a log becomes sequences, and sequences a log; what it cannot keep it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, call, files, read, write

LOG = "userId,movieId,rating,timestamp\n1,7,5,20\n2,7,1,30\n1,8,4.0,10\n"


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr convert ...`` in this process."""

    def run(*arguments: object) -> Any:
        return call(monkeypatch, capfdbinary, "convert", *arguments)

    return run


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_a_log_comes_back_from_its_sequences(tmp_path: Path, convert: Call, ending: str) -> None:
    """Guards: rows in another order, and numbers that are spelled otherwise."""
    (tmp_path / "log.csv").write_text(LOG)
    names = ["--user-column", "userId", "--item-column", "movieId"]
    assert convert(tmp_path / "log.csv", tmp_path / "s.jsonl").code == 0
    assert [one["items"] for one in read(tmp_path / "s.jsonl")] == [["8", "7"], ["7"]]
    assert convert(tmp_path / "s.jsonl", tmp_path / f"back{ending}", "--user-field", "user_id", *names).code == 0
    assert convert(tmp_path / f"back{ending}", tmp_path / "again.jsonl").code == 0
    assert read(tmp_path / "again.jsonl") == read(tmp_path / "s.jsonl")


def test_sequences_come_through_a_pipe(tmp_path: Path) -> None:
    """Guards: a header and no row, with exit code 0: the table is read twice, and a pipe was empty by then."""
    records = [{"user_id": user, "items": [user, user + 1], "rating": [3, 4]} for user in range(2_000)]
    source = write(tmp_path / "s.jsonl", records)
    for given, target in ((str(source), "file.csv"), ("-", "pipe.csv")):
        program = [sys.executable, "-m", "llm4dsr_cli", "convert", given, str(tmp_path / target)]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            _, told = process.communicate(source.read_bytes())
        assert process.returncode == 0 and b"4,000 rows" in told
    assert (tmp_path / "pipe.csv").read_bytes() == (tmp_path / "file.csv").read_bytes()
    program[-1] = str(tmp_path / "wrong.csv")
    wrong = subprocess.run(program, input=b'{"user_id": 1, "items": [2]}\n[]\n', capture_output=True, check=False)
    assert wrong.returncode == 1 and b"stdin:2" in wrong.stderr


def test_rows_that_are_left_out_are_counted(tmp_path: Path, convert: Call) -> None:
    """Guards: rows without a user, or that meet no condition, of which it was said that they stay."""
    (tmp_path / "log.csv").write_text(LOG + ",9,3,40\n")
    done = convert(tmp_path / "log.csv", tmp_path / "s.jsonl", "--where", "rating >= 4")
    assert done.code == 0 and "2 rows are left out" in done.err, done.err
    assert [one["items"] for one in read(tmp_path / "s.jsonl")] == [["8", "7"]]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("nobody.jsonl", "out.csv", ["no sequence says whose it is", "--user-field"]),
        ("log.csv", "out.parquet.gz", ["Parquet is not compressed from outside"]),
        ("log.csv", "out.xls", ["of no known kind"]),
        ("nobody.jsonl", "out.jsonl", ["IN and OUT are both sequences"]),
        ("own.csv", "out.jsonl", ["a sequence has a field items of its own", "rename the column"]),
    ],
)
def test_what_would_be_lost_is_refused(
    tmp_path: Path, convert: Call, source: str, target: str, words: list[str]
) -> None:
    """Guards: sequences that ran into one another, and files that no program reads."""
    write(tmp_path / "nobody.jsonl", [{"items": [1, 2]}, {"items": [3]}])
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "own.csv").write_text("user_id,item_id,items\n1,7,3\n")
    before = files(tmp_path)
    convert(tmp_path / source, tmp_path / target, "--quiet").failed(2, *words)
    assert files(tmp_path) == before
