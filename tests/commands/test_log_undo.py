"""``llm4dsr undo`` of a log: its rows come back, byte for byte."""

from __future__ import annotations

import gzip
import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import command_line
import pytest
from command_line import Call, call, write

pytestmark = pytest.mark.usefixtures("warm_environment")
N = 40


@pytest.fixture
def llm4dsr(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr(COMMAND, ...)`` in this process, ``clean`` with the tiny denoiser."""

    def run(command: str, *arguments: object) -> Any:
        return call(monkeypatch, capfdbinary, command, *(engine if command == "clean" else []), *arguments)

    return run


def rows() -> list[tuple[int, int, int]]:
    rng = random.Random(0)
    found = [(user, item, place) for user in range(N) for place, item in enumerate(rng.sample(range(10, 40), 6))]
    rng.shuffle(found)
    return found


def table(separator: str, header: str, ending: str = "\n", quote: str = "") -> bytes:
    lines = [separator.join([str(user), f"{quote}{item}{quote}", str(time)]) for user, item, time in rows()]
    return ending.join([header, *lines, ""] if header else [*lines, ""]).encode()


def lists(separator: str = "\t") -> bytes:
    """MIND's form: a history stands in two rows."""
    by_user: dict[int, list[int]] = {}
    for user, item, _ in rows():
        by_user.setdefault(user, []).append(item)
    lines = [
        separator.join([str(2 * user + again), f"U{user}", "11/11/2019", " ".join(map(str, items)), "N1-0"])
        for user, items in by_user.items()
        for again in (0, 1)
    ]
    return "\n".join([*lines, ""]).encode()


LOGS = {
    "log.csv": b"\xef\xbb\xbf" + table(",", "userId,movieId,timestamp", "\r\n", '"'),
    "log.tsv.gz": table("\t", "userId\tmovieId\ttimestamp"),
    "log.inter": table("\t", "user_id:token\titem_id:token\ttimestamp:float").rstrip(b"\n"),
    "log.jsonl": "".join(
        json.dumps({"user_id": user, "asin": str(item), "timestamp": time, "x": "é"}) + "\n"
        for user, item, time in rows()
    ).encode(),
    "behaviors.tsv": lists(),
}
ACTIONS = [["drop"], ["replace"], ["mark"], ["drop", "--annotate"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "catalog.jsonl", [{"id": str(i), "title": f"Thing {i}, The"} for i in range(10, 40)])
    for name, data in LOGS.items():
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return tmp_path


def cleaned(llm4dsr: Call, folder: Path, name: str, action: list[str]) -> bytes:
    """What ``clean`` makes of a log: ``out-NAME``, its audit in ``edits``."""
    done = llm4dsr(
        "clean", folder / name, folder / f"out-{name}", "--catalog", folder / "catalog.jsonl",
        "--audit", folder / "edits", "--edit", "20%", "--action", *action,
    )  # fmt: skip
    assert done.code == 0, done.err
    return content(folder / f"out-{name}")


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.mark.parametrize("action", ACTIONS, ids=" ".join)
@pytest.mark.parametrize("name", LOGS)
def test_all_edits_taken_back_are_the_log_byte_for_byte(
    folder: Path, llm4dsr: Call, name: str, action: list[str]
) -> None:
    """Guards: rows of a log that were dropped, and that no command puts back."""
    assert cleaned(llm4dsr, folder, name, action) != LOGS[name]
    done = llm4dsr("undo", folder / "edits", folder / f"out-{name}", folder / f"back-{name}")
    assert done.code == 0, done.err
    assert content(folder / f"back-{name}") == LOGS[name]


@pytest.mark.parametrize("options", [[], ["--only", "undo.txt"]], ids=["all", "some"])
def test_an_audit_from_a_pipe_takes_back_what_its_file_does(
    folder: Path, llm4dsr: Call, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """Guards: the audit of a log, which is read twice, taken for one of JSON lines where it can be read once; a
    second opening of the pipe, which waits for ever (so the command runs with a time limit)."""
    monkeypatch.chdir(folder)
    cleaned(llm4dsr, folder, "log.csv", ["drop"])
    first = edits_of(folder)[0]
    Path("undo.txt").write_text(f"{first['output_line']} {first['position']}\n")
    os.mkfifo("pipe")
    feeding = threading.Thread(target=lambda: Path("pipe").write_bytes(Path("edits").read_bytes()), daemon=True)
    feeding.start()
    done = [command_line.run("undo", audit, "out-log.csv", f"back-{audit}", *options) for audit in ("pipe", "edits")]
    feeding.join(command_line.PATIENCE)
    assert [one.code for one in done] == [0, 0], done
    assert Path("back-pipe").read_bytes() == Path("back-edits").read_bytes() != Path("out-log.csv").read_bytes()


def edits_of(folder: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (folder / "edits").read_bytes().splitlines())
    return [line for line in lines if "position" in line]


@pytest.mark.parametrize("name", ["log.csv", "log.tsv.gz", "log.inter", "log.jsonl"])
def test_chosen_edits_taken_back_leave_the_others(folder: Path, llm4dsr: Call, name: str) -> None:
    """Guards: a row that comes back at another place, or with another's."""
    out = cleaned(llm4dsr, folder, name, ["drop"])
    edits = edits_of(folder)
    chosen = edits[::3]
    (folder / "undo.txt").write_text("".join(f"{one['output_line']} {one['position']}\n" for one in chosen))
    done = llm4dsr(
        "undo", folder / "edits", folder / f"out-{name}", folder / f"b-{name}", "--only", folder / "undo.txt"
    )
    assert done.code == 0, done.err
    assert f"took back {len(chosen)} of {len(edits)} edits" in done.err
    before, back = LOGS[name].split(b"\n"), content(folder / f"b-{name}").split(b"\n")
    rest = iter(before)
    assert all(line in rest for line in back)  # rows of the log, in its order
    assert set(out.split(b"\n")) < set(back)
    assert len(back) == len(out.split(b"\n")) + len(chosen)


def test_a_row_comes_back_whole_or_not_at_all(folder: Path, llm4dsr: Call) -> None:
    """Guards: one of two items that were dropped from a row's history, taken back alone."""
    cleaned(llm4dsr, folder, "behaviors.tsv", ["drop"])
    edits = edits_of(folder)
    lines = [one["output_line"] for one in edits]
    two = next(line for line in lines if lines.count(line) > 1)
    chosen = [one for one in edits if one["output_line"] == two]
    arguments = [folder / "edits", folder / "out-behaviors.tsv", folder / "back", "--only", folder / "undo.txt"]
    (folder / "undo.txt").write_text(f"{two} {chosen[0]['position']}\n")
    llm4dsr("undo", *arguments).failed(2, "some of the edits of one row")
    (folder / "undo.txt").write_text("".join(f"{two} {one['position']}\n" for one in chosen))
    assert llm4dsr("undo", *arguments).code == 0
    before, back = LOGS["behaviors.tsv"].split(b"\n"), (folder / "back").read_bytes().split(b"\n")
    out = (folder / "out-behaviors.tsv").read_bytes().split(b"\n")
    restored = [place for place, (one, other) in enumerate(zip(back, out, strict=True)) if one != other]
    assert len(restored) == 2  # the history stands in two rows
    assert all(back[place] == before[place] for place in restored)


def test_an_added_column_is_not_taken_from_some_rows(folder: Path, llm4dsr: Call) -> None:
    """Guards: rows of six cells under a header of seven."""
    cleaned(llm4dsr, folder, "log.csv", ["mark"])
    edit = edits_of(folder)[0]
    (folder / "undo.txt").write_text(f"{edit['output_line']} {edit['position']}\n")
    done = llm4dsr("undo", folder / "edits", folder / "out-log.csv", folder / "back", "--only", folder / "undo.txt")
    done.failed(2, "a column away that was added to all rows")


def test_another_log_is_refused(folder: Path, llm4dsr: Call) -> None:
    """Guards: rows put into a file that was edited since, at the places of other rows."""
    out = cleaned(llm4dsr, folder, "log.inter", ["drop"])
    for other in (out[:-9], out + b"1\t2\t3\n", out.replace(b"\t3", b"\t4", 1), b""):
        (folder / "other.inter").write_bytes(other)
        done = llm4dsr("undo", folder / "edits", folder / "other.inter", folder / "back.inter")
        done.failed(1, "is not the log that was written together with this audit")
        assert not (folder / "back.inter").exists()


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_not_restored_under_the_name_of_another_kind(folder: Path, llm4dsr: Call, name: str) -> None:
    """Guards: CSV in a file called .jsonl, which `clean` refuses; and a name that says nothing refused with it."""
    cleaned(llm4dsr, folder, name, ["drop"])
    plain = folder / f"out-{name}"
    (folder / "cleaned.txt").write_bytes(content(plain))
    for file in (plain, folder / "cleaned.txt"):
        for other in {"back.csv", "back.jsonl", "back.tsv", "back.inter.gz"} - {
            f"back{ending}{more}" for ending in Path(name).suffixes[:1] for more in ("", ".gz")
        }:
            llm4dsr("undo", folder / "edits", file, folder / other).failed(2, f"{other}: would hold ", "call it back.")
            assert not (folder / other).exists()
        for own in (name, "back", "back.txt", "back.gz"):
            target = folder / "own" / own
            target.parent.mkdir(exist_ok=True)
            assert llm4dsr("undo", folder / "edits", file, target).code == 0


def test_a_log_comes_back_into_a_folder_under_its_name(folder: Path, llm4dsr: Call) -> None:
    """Guards: a file that is called like the folder that was meant."""
    cleaned(llm4dsr, folder, "log.csv", ["drop"])
    for made in (False, True):
        target = f"{folder}/back" if made else f"{folder}/back/"
        assert llm4dsr("undo", folder / "edits", folder / "out-log.csv", target).code == 0
        assert (folder / "back" / "out-log.csv").read_bytes() == LOGS["log.csv"]
    again = llm4dsr("undo", folder / "edits", folder / "back" / "out-log.csv", folder / "back")
    again.failed(2, "FILE and OUT are the same file")
    llm4dsr("undo", folder / "edits", "-", f"{folder}/more/").failed(2, "standard input has no name in a folder")
    llm4dsr("undo", folder / "edits", folder / "none", f"{folder}/more/").failed(1, "none: no such file")
    assert not (folder / "more").exists()


def test_report_and_show_read_the_audit_of_a_log(folder: Path, llm4dsr: Call) -> None:
    """Guards: lines of an audit that take rows back, and that whoever reads edits cannot read."""
    cleaned(llm4dsr, folder, "log.csv", ["drop"])
    assert llm4dsr("report", folder / "page.html", "--audit", folder / "edits").code == 0
    assert b"Thing" in llm4dsr("show", folder / "edits").out


def test_parquet_says_at_once_that_it_cannot_be_undone(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards: an audit that somebody trusts, and a remedy from `undo` that does not work."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    users, items, times = zip(*rows(), strict=True)
    pq.write_table(pa.table({"user": users, "item": items, "timestamp": times}), tmp_path / "log.parquet")
    write(tmp_path / "catalog.jsonl", [{"id": i, "title": f"Thing {i}"} for i in range(10, 40)])
    audit = tmp_path / "audit.jsonl"
    done = llm4dsr(
        "clean", tmp_path / "log.parquet", tmp_path / "out.parquet", "--catalog", tmp_path / "catalog.jsonl",
        "--edit", "10%", "--audit", audit,
    )  # fmt: skip
    assert done.code == 0 and "cannot take edits of Parquet back" in done.err, done.err
    undone = llm4dsr("undo", audit, tmp_path / "out.parquet", tmp_path / "back.parquet")
    assert undone.code == 1 and "use the file that was cleaned" in undone.err
    assert not (tmp_path / "back.parquet").exists()
