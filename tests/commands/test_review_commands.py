"""``llm4dsr report``, ``show`` and ``undo``, after ``clean``: edits are looked at, and taken back."""

from __future__ import annotations

import gzip
import json
import os
import pty
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, PATIENCE, WORDS, Call, call, files, read_edits, run, sequences, write

pytestmark = pytest.mark.usefixtures("warm_environment")


@pytest.fixture
def llm4dsr(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr("undo", ...)`` in this process."""
    return lambda *arguments: call(monkeypatch, capfdbinary, *arguments)


def odd_lines(make: Any, n: int = 60) -> bytes:
    """Records with blanks where few people have them, repeated names, and numbers that no parser keeps."""
    rng = random.Random(n)
    lines = []
    for number, titles in enumerate(sequences(n, seed=9)):
        record = {"user_id": number % 9, **make(titles, rng), "stars": [rng.randrange(5) for _ in titles]}
        text = json.dumps(record, separators=(" ,  ", ": "), ensure_ascii=number % 2 == 0)
        text = text.replace('"stars"', '"x": -0.0, "stars": [], "stars"') if number % 3 == 0 else text
        lines.append(f" {text[:-1]} }}\t\n".encode())
    return b"".join(lines)


NESTED = {"make": lambda titles, rng: {"h": {"seq": [{"id": i, "title": t, "r": 1.50} for i, t in enumerate(titles)]}}}
PADDED = {"make": lambda titles, rng: {"items": [0, 0, *(100 + WORDS.index(t.rsplit(" ", 1)[0]) for t in titles)]}}
BESIDE = {"make": lambda titles, rng: {"items": [rng.randrange(9) for _ in titles], "names": titles}}
PLAIN = {"make": lambda titles, rng: {"items": titles}}


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (PLAIN, ["--annotate"]),
        (PLAIN, ["--action", "mark", "--annotate", "--newest-first"]),
        (NESTED, ["--items-field", "h.seq", "--annotate"]),
        (NESTED, ["--items-field", "h.seq", "--action", "replace", "--annotate"]),
        (PADDED, ["--catalog", "catalog.jsonl", "--padding-id", "0", "--not-parallel", "stars"]),
        (PADDED, ["--catalog", "catalog.jsonl", "--padding-id", "0", "--action", "replace", "--fallback", "keep"]),
        (BESIDE, ["--titles-field", "names", "--action", "replace"]),
        (BESIDE, ["--titles-field", "names", "--protect-last", "0", "--no-fusion"]),
    ],
)
def test_undo_gives_the_input_back(
    tmp_path: Path, clean: Call, llm4dsr: Call, monkeypatch: pytest.MonkeyPatch, shape: Any, options: list[str]
) -> None:
    """Guards: any way to clean after which undo does not find its lines again, or not all of their bytes."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "catalog.jsonl", [{"id": 100 + i, "title": word} for i, word in enumerate(WORDS)])
    source = odd_lines(**shape)
    for suffix in ("", ".gz"):
        (tmp_path / "in.jsonl").write_bytes(source)
        out, audit = f"out.jsonl{suffix}", f"edits.jsonl{suffix}"
        outcome = clean("in.jsonl", out, "--audit", audit, "--edit", "20%", "--max-edits", "3", *options)
        assert outcome.code == 0, outcome.err
        undone = llm4dsr("undo", audit, out, "back.jsonl")
        assert (undone.code, undone.out) == (0, b""), undone.err
        assert Path("back.jsonl").read_bytes() == source != Path("out.jsonl").read_bytes()
        found = re.fullmatch(r"took back (\d+) of (\d+) edits, in (\d+) of \d+ edited records\n", undone.err)
        assert found and found[1] == found[2] and int(found[1]) > 10 < int(found[3])


def test_undo_of_some_is_clean_without_them(tmp_path: Path, clean: Call, llm4dsr: Call) -> None:
    """Guards: probabilities and flags that tell of other items, once some edits are taken back."""
    source = write(
        tmp_path / "in.jsonl", [{"user": n % 5, "items": one} for n, one in enumerate(sequences(40, seed=3))]
    )
    audit, more, few = (tmp_path / name for name in ("edits.jsonl", "more.jsonl", "few.jsonl"))
    for options in (["--annotate"], ["--annotate", "--action", "mark"]):
        assert clean(source, few, "--threshold", 0.9, *options, "--audit", audit).code == 0
        fewer = {(edit["output_line"], edit["position"]) for edit in read_edits(audit)}
        assert clean(source, more, "--threshold", 0.4, *options, "--audit", audit).code == 0
        edits = {(edit["output_line"], edit["position"]) for edit in read_edits(audit)}
        assert fewer < edits
        listed = tmp_path / "undo.txt"
        listed.write_text("".join(f"{line} {position}\n" for line, position in edits - fewer))
        assert llm4dsr("undo", audit, more, tmp_path / "back.jsonl", "--only", listed).code == 0
        assert (tmp_path / "back.jsonl").read_bytes() == few.read_bytes()


def test_undo_in_a_pipe_and_what_it_refuses(tmp_path: Path, clean: Call, llm4dsr: Call) -> None:
    """Guards: half a file where a line is another, files written over, and an edit that is not there."""
    source = write(tmp_path / "in.jsonl", [{"items": one} for one in sequences(30, seed=5)])
    out, audit, only = (tmp_path / name for name in ("out.jsonl", "edits.jsonl", "undo.txt"))
    assert clean(source, out, "--threshold", 0.5, "--audit", audit).code == 0
    piped = run("undo", audit, "-", "-", "--quiet", input=out.read_bytes())
    assert (piped.code, piped.out, piped.err) == (0, source.read_bytes(), "")
    llm4dsr("undo", audit, out, tmp_path / "back.csv").failed(2, "back.csv: would hold JSON lines", "back.jsonl")
    run("undo", audit, "-", tmp_path / "back.csv", input=out.read_bytes()).failed(2, "back.csv: would hold JSON lines")
    llm4dsr("undo", audit, out, out).failed(2, "FILE and OUT are the same file")
    llm4dsr("undo", audit, out, audit).failed(2, "AUDIT and OUT are the same file")
    llm4dsr("undo", "-", "-", tmp_path / "back").failed(2, "two inputs are standard input")
    only.write_text("1 999\n")
    llm4dsr("undo", audit, out, tmp_path / "back", "--only", only).failed(2, "--only names item 999 of line 1")
    only.write_text("all\n")
    llm4dsr("undo", audit, out, tmp_path / "back", "--only", only).failed(1, "undo.txt:1: names no edit")
    llm4dsr("undo", out, out, tmp_path / "back").failed(1, 'out.jsonl:1: "output_line" is missing')
    before = files(tmp_path)
    first = read_edits(audit)[0]["output_line"]
    llm4dsr("undo", audit, source, tmp_path / "back").failed(
        1, f"in.jsonl:{first}: is not the line that the audit tells"
    )
    (tmp_path / "short").write_bytes(out.read_bytes()[:100])
    llm4dsr("undo", audit, tmp_path / "short", tmp_path / "back").failed(1, "short:")
    assert files(tmp_path).keys() == before.keys() | {"short"}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_undo_refuses_a_file_that_differs_where_nothing_was_edited(
    tmp_path: Path, clean: Call, llm4dsr: Call, suffix: str
) -> None:
    """Guards: a file that was cut behind its last edit, got lines of its own, or was changed between the edits, taken
    for restored. An older audit, which cannot tell, is still undone."""
    source = write(tmp_path / "in.jsonl", [{"items": one} for one in [*sequences(20, seed=5), ["Up"], ["Heat"]]])
    opened: Any = gzip.open if suffix else open
    out, audit = tmp_path / f"out.jsonl{suffix}", tmp_path / f"edits.jsonl{suffix}"
    assert clean(source, out, "--threshold", 0.5, "--audit", audit).code == 0
    with opened(out, "rb") as file:
        written = file.read()
    with opened(audit, "rb") as file:
        *edits, last = file.read().splitlines(keepends=True)
    assert json.loads(last)["lines"]["length"] == len(written)
    (tmp_path / "undo.txt").write_text(f"{json.loads(edits[0])['output_line']} {json.loads(edits[0])['position']}\n")
    cut = written[: written.rindex(b"\n", 0, -1) + 1]
    for other in (cut, written + b'{"items":["A"]}\n', written + b"\n", written.replace(b'"Heat"]', b'"Meat"]')):
        assert other != written
        with opened(tmp_path / f"other.jsonl{suffix}", "wb") as file:
            file.write(other)
        for only in ([], ["--only", tmp_path / "undo.txt"]):
            done = llm4dsr("undo", audit, tmp_path / f"other.jsonl{suffix}", tmp_path / "back.jsonl", *only)
            done.failed(1, f"other.jsonl{suffix}: has lines that are other ones, more or fewer than")
            assert not (tmp_path / "back.jsonl").exists()
        with opened(tmp_path / f"older.jsonl{suffix}", "wb") as file:
            file.writelines(edits)
        older = tmp_path / f"older.jsonl{suffix}"
        assert llm4dsr("undo", older, tmp_path / f"other.jsonl{suffix}", tmp_path / "back").code == 0
    assert llm4dsr("undo", audit, out, tmp_path / "back.jsonl").code == 0
    assert (tmp_path / "back.jsonl").read_bytes() == source.read_bytes()


def test_the_audit_of_a_run_without_edits_knows_its_file(tmp_path: Path, clean: Call, llm4dsr: Call) -> None:
    """Guards: an audit of nothing that takes any file for its own, or that show and report cannot read."""
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien", "Heat"]}])
    out, audit = tmp_path / "out.jsonl", tmp_path / "edits.jsonl"
    assert clean(source, out, "--threshold", 1, "--audit", audit).code == 0
    assert llm4dsr("undo", audit, out, tmp_path / "back.jsonl").code == 0
    assert (tmp_path / "back.jsonl").read_bytes() == source.read_bytes()
    other = write(tmp_path / "other.jsonl", [{"items": ["Up"]}])
    llm4dsr("undo", audit, other, tmp_path / "back.jsonl").failed(1, "other.jsonl: has lines that are other ones")
    assert llm4dsr("show", audit).code == 0
    assert llm4dsr("report", tmp_path / "page.html", "--audit", audit).code == 0


def test_report_writes_one_page(tmp_path: Path, clean: Call, llm4dsr: Call, engine: list[str]) -> None:
    """Guards: an audit or scores that the page overwrites, and half a page."""
    source = write(tmp_path / "in.jsonl", [{"user_id": "<b>me", "items": one} for one in sequences(20, seed=5)])
    out, audit, scored = (tmp_path / name for name in ("out.jsonl", "edits.jsonl", "scored.jsonl"))
    assert clean(source, out, "--threshold", 0.5, "--audit", audit).code == 0
    assert llm4dsr("score", source, scored, *engine, "-q").code == 0
    page = tmp_path / "edits.html"
    outcome = llm4dsr("report", page, "--audit", audit, "--scored", scored)
    edits = read_edits(audit)
    n_records = len({edit["output_line"] for edit in edits})
    assert (outcome.code, outcome.out) == (0, b"") and f"{len(edits)} edits in {n_records} records" in outcome.err
    text = page.read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert sum(data["histogram"]["all"]) == data["scored"]["items"] == sum(map(len, sequences(20, seed=5)))
    assert data["scored"]["same"] and sum(data["histogram"]["edited"]) == len(edits)
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert llm4dsr("report", "-", "--audit", audit, "--scored", scored).out == page.read_bytes()
    llm4dsr("report", audit, "--audit", audit).failed(2, "--audit and OUT.html are the same file")
    llm4dsr("report", page).failed(2, "--audit")
    page.unlink()
    llm4dsr("report", page, "--audit", source).failed(1, 'in.jsonl:1: "output_line" is missing', "--audit")
    llm4dsr("report", page, "--audit", audit, "--scored", source).failed(1, "in.jsonl:1: has no list of probabilities")
    assert not page.exists()


def test_show_prints_each_edit_and_colours_on_a_terminal_alone(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards: codes of colours in a file, and titles that a terminal would obey."""
    audit = tmp_path / "edits.jsonl"
    common = {"record": "in:3", "output_line": 3, "user": "Ann\x1b[2J", "threshold": 0.3}
    about = {"title": "Aliens", "noise_probability": 0.0123, "proposer": "counts", "counts_score": 1}
    edits = [
        {**common, "position": 1, "action": "replace", "title": "\x1b]0;title\x07", "noise_probability": 0.6}
        | {"to": "Aliens", "replacement": about}
        | {"sequence": {"titles": ["Alien", "x", None], "noise_probability": [0.01, 0.6, None]}},
        {
            **common,
            "output_line": 4,
            "user": None,
            "position": 0,
            "action": "mark",
            "title": None,
            "noise_probability": 0.5,
        },
        {**common, "output_line": 5, "position": 0, "action": "drop", "title": "t" * 90, "noise_probability": 0.5}
        | {"refused": about},
    ]
    write(audit, edits)
    printed = llm4dsr("show", audit)
    assert printed.out.decode().splitlines() == [
        "line 3  Ann\\x1b[2J",
        "  0.600 \\x1b]0;title\\x07  (replaced)",
        "        Alien | [*] | ?",
        "        in its place: Aliens (0.012, counts)",
        "line 4",
        "  0.500 ?  (marked)",
        "line 5  Ann\\x1b[2J",
        f"  0.500 {'t' * 57}...  (dropped)",
        "        nothing fitted; proposed was: Aliens (0.012, counts)",
    ]
    assert llm4dsr("show", audit, "--first", 1).out == b"".join(printed.out.splitlines(keepends=True)[:4])
    coloured = on_a_terminal("show", audit)
    assert "\x1b[" in coloured and "\x1b[2J" not in coloured and "\x1b]" not in coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured).replace("\r", "").splitlines()
    assert plain == printed.out.decode().splitlines()
    for options, environment in ((["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})):
        assert "\x1b" not in on_a_terminal("show", audit, *options, **environment)


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """What a command prints on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=theirs, stdin=subprocess.DEVNULL, env=variables
    ) as one:
        os.close(theirs)
        text = b""
        try:
            while more := os.read(ours, 4096):
                text += more
        except OSError:  # Linux says so when the other end is closed
            pass
        assert one.wait(PATIENCE) == 0
    os.close(ours)
    return text.decode()


def test_clean_shows_as_many_edits_as_are_asked_for(tmp_path: Path, clean: Call) -> None:
    """Guards: ten examples, whatever a person wants."""
    source = write(tmp_path / "in.jsonl", [{"items": one} for one in sequences(40, seed=5)])
    for options, n in (([], 10), (["--show", 3], 3), (["--show", 0], 0)):
        outcome = clean(source, "--dry-run", "--edit", "20%", *options)
        assert outcome.code == 0 and len(re.findall(r"^ {8}.*\[\*\]", outcome.err, flags=re.MULTILINE)) == n
        assert ("some of the edits" in outcome.err) == bool(n)


def test_the_expected_precision_is_what_clean_says(tmp_path: Path, clean: Call) -> None:
    """Guards: a page that promises more than the run did, or an audit without a promise where there was one."""
    records = [{"user_id": n, "items": one} for n, one in enumerate(sequences(150, seed=5, longest=6))]
    source, audit = write(tmp_path / "in.jsonl", records), tmp_path / "edits.jsonl"
    outcome = clean(source, tmp_path / "out.jsonl", "--edit", "5%", "--audit", audit)
    assert outcome.code == 0
    told = re.search(r"^ +5% +\d+ +(\d+)% +(\d+)% +(\d+)%$", outcome.err, flags=re.MULTILINE)
    assert told, outcome.err
    for edit in read_edits(audit):
        if "sequence" in edit:
            expected = edit["expected_precision"]
            assert [f"{expected[noise]:.0%}" for noise in ("0.02", "0.05", "0.1")] == [
                f"{one}%" for one in told.groups()
            ]


def test_a_compressed_audit_is_read_everywhere(tmp_path: Path, clean: Call, llm4dsr: Call) -> None:
    """Guards: an audit that can be written and not be read."""
    source, audit = write(tmp_path / "in.jsonl", [{"items": one} for one in sequences(20)]), tmp_path / "edits.jsonl.gz"
    assert clean(source, tmp_path / "out.jsonl", "--threshold", 0.5, "--audit", audit).code == 0
    shown = llm4dsr("show", audit).out
    (tmp_path / "plain").write_bytes(gzip.decompress(audit.read_bytes()))
    assert shown and shown == llm4dsr("show", tmp_path / "plain").out
    assert llm4dsr("report", tmp_path / "edits.html", "--audit", audit, "-q").code == 0


def test_the_audit_of_a_log_is_shown_and_undone(tmp_path: Path, clean: Call, llm4dsr: Call) -> None:
    """Guards: a page without the users of a log, JSON lines in place of its rows, and the number of a sequence called a
    line, on which something else stands."""
    source, out, audit = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "edits.jsonl"
    rows = [f"u{n},i{at},{title},{at}" for n, titles in enumerate(sequences(20)) for at, title in enumerate(titles)]
    source.write_text("\n".join(["user_id,item_id,title,timestamp", *rows, ""]), encoding="utf-8")
    outcome = clean(source, out, "--threshold", 0.5, "--audit", audit)
    assert outcome.code == 0, outcome.err
    edits = read_edits(audit)
    assert {edit["user"] for edit in edits} <= {f"u{n}" for n in range(20)}
    assert llm4dsr("report", tmp_path / "edits.html", "--audit", audit, "-q").code == 0
    shown = llm4dsr("show", audit).out.decode()
    assert shown.count("(dropped)") == len(edits) > 0
    # Users stand in the log one after the other.
    of_users = {f"sequence {edit['output_line']}  u{edit['output_line'] - 1}" for edit in edits}
    assert {line for line in shown.splitlines() if not line.startswith(" ")} == of_users
    (tmp_path / "undo.txt").write_text("1 999\n")
    undone = llm4dsr("undo", audit, out, tmp_path / "back.csv", "--only", tmp_path / "undo.txt")
    undone.failed(2, "--only names item 999 of sequence 1")
    assert llm4dsr("undo", audit, out, tmp_path / "back.csv").code == 0
    assert (tmp_path / "back.csv").read_bytes() == source.read_bytes()
