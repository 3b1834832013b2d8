"""``llm4dsr clean --ray`` on a real Ray with two workers: what one process does, in another place."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, read, write
from shards_of_records import tasteful, together, write_shards

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.undo import undo_edits

pytestmark = [pytest.mark.usefixtures("warm_environment", "two_cpus"), pytest.mark.filterwarnings("default")]


def lines_of(audit: bytes, *, but: tuple[str, ...]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in audit.splitlines()]
    return [{k: v for k, v in line.items() if k not in but} for line in lines if "position" in line]


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal, probabilities up to .001: one process knows its sample's windows, which
    stood beside others."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-3
    return bool(one == other)


@pytest.mark.parametrize("options", [[], ["--action", "replace"], ["--false-edit-rate", "0.05"]])
def test_shards_become_what_the_file_of_all_of_them_becomes(tmp_path: Path, clean: Call, options: list[str]) -> None:
    """Guards every step at once, byte for byte: counts of a part of the users, a threshold of a part of the scores,
    an item that no other shard may propose, an edit that is made twice or not at all, lists that lose step."""
    records = tasteful(256)
    source = write_shards(tmp_path / "in", records, 64)  # whole batches, so that all scores are the same
    one = clean(
        write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl", "--audit", tmp_path / "audit.jsonl", *options
    )
    assert one.code == 0, one.err
    out, audit, report = tmp_path / "out", tmp_path / "audit", tmp_path / "report.json"
    many = clean(source, out, "--ray", "--audit", audit, "--report", report, *options)
    assert many.code == 0, many.err
    assert together(out) == (tmp_path / "out.jsonl").read_bytes()
    assert together(out) != together(source)
    own = ("record", "output_line")
    assert same(lines_of(together(audit), but=own), lines_of((tmp_path / "audit.jsonl").read_bytes(), but=own))
    for shard in sorted(path for path in out.iterdir() if path.is_file()):
        undo_edits(audit / shard.name, shard, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (source / shard.name).read_bytes()
        shard_without_its_end = shard.read_bytes().splitlines(keepends=True)[:-1]
        (tmp_path / "cut").write_bytes(b"".join(shard_without_its_end))
        with pytest.raises(RecordError, match="cut"):
            undo_edits(audit / shard.name, tmp_path / "cut", tmp_path / "back")
    table = [line for line in one.err.splitlines() if "%" in line and "edit" not in line]
    assert [line for line in many.err.splitlines() if line in table][: len(table)]
    told = json.loads(report.read_bytes())
    assert told["counts"]["records"] == 256
    workers = told["ray"]["workers"]
    assert sum(worker["sequences"] for worker in workers) == 256
    assert {worker["threads"] for worker in workers} == {1}
    assert len(workers) <= 2
    assert all(worker["sequences_per_second"] > 0 for worker in workers)
    assert [path.name for path in (out / "_llm4dsr").iterdir()] == ["state.json"], "nothing else is left"
    again = clean(source, out, "--ray", "--audit", audit, *options)
    assert (again.code, "is finished" in again.err) == (0, True)


def test_each_shard_is_what_the_command_makes_of_it(tmp_path: Path, clean: Call) -> None:
    """Guards: bytes of a line that nobody edited, blank lines, compression, a file in a folder of the folder, and what
    is no record, which is lost, or passed on."""
    source, out, rejects = tmp_path / "in", tmp_path / "out", tmp_path / "out/_rejects"
    write_shards(source, tasteful(90), 40)
    lines = (source / "part-001.jsonl").read_bytes().splitlines()
    odd = b'{"items": ["group 1 thing 1" ], "big": 1.10000000000000000001, "tags": [], "user_id":  7 }'
    (source / "part-001.jsonl").write_bytes(b"\n".join([*lines[:7], b"no record", b"", odd, *lines[7:], b"{}"]))
    (source / "day=2").mkdir()
    (source / "day=2" / "part-002.jsonl.gz").write_bytes(gzip.compress((source / "part-002.jsonl").read_bytes()))
    (source / "part-002.jsonl").unlink()
    (source / "_SUCCESS").touch()
    options = ["--action", "mark", "--annotate", "--threshold", "0.5", "--on-error", "skip"]
    done = clean(source, out, "--ray", *options)
    assert done.code == 3, done.err
    assert "skipped 2 lines" in done.err
    for name in ("part-000.jsonl", "part-001.jsonl", "day=2/part-002.jsonl.gz"):
        alone = tmp_path / f"alone{Path(name).suffix}"
        clean(source / name, alone, *options)
        assert (out / name).read_bytes() == alone.read_bytes()
    assert odd.removesuffix(b" }") in (out / "part-001.jsonl").read_bytes()
    kept = [str(path.relative_to(rejects)) for path in rejects.rglob("*") if path.is_file()]
    assert kept == ["part-001.jsonl.rejects.jsonl"]
    assert (rejects / kept[0]).read_bytes() == b"no record\n{}\n"


def left_of(folder: Path) -> dict[Path, int]:
    """What a stopped run has left, and when it was made: two files, for workers go on with what they have in hand."""
    found = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    assert len(found) >= 2
    for path in found[2:]:
        path.unlink()
    return {path: path.stat().st_mtime_ns for path in found[:2]}


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path, clean: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: shards that are scored or written again; a run that ends in the middle and leaves half a shard; another
    threshold for the shards that come later."""
    from llm4dsr_cli.distributed import run

    source, whole, out = write_shards(tmp_path / "in", tasteful(256), 32), tmp_path / "whole", tmp_path / "out"
    assert clean(source, whole, "--ray").code == 0

    def stops_in(step: str, after: int) -> Any:
        each = run.Cluster.each

        def stopping(self: Any, worker: type, *rest: Any, **options: Any) -> Any:
            for number, done in enumerate(each(self, worker, *rest, **options)):
                if worker.__name__ == step and number == after:
                    raise KeyboardInterrupt
                yield done

        return stopping

    with monkeypatch.context() as patch:
        patch.setattr(run.Cluster, "each", stops_in("Score", 3))
        stopped = clean(source, out, "--ray")
    assert (stopped.code, "the same command goes on" in stopped.err) == (130, True)
    scores = left_of(out / "_llm4dsr/scores")
    with monkeypatch.context() as patch:
        patch.setattr(run.Cluster, "each", stops_in("Edit", 2))
        assert clean(source, out, "--ray").code == 130
    assert {path: path.stat().st_mtime_ns for path in scores} == scores, "a score was made twice"
    finished = left_of(out)
    done = clean(source, out, "--ray")
    assert done.code == 0, done.err
    before = re.search(r"(\d) of 8 shards were finished before", done.err)
    assert before is not None and 2 <= int(before[1]) < 8, done.err
    assert "counting" not in done.err
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a shard was written twice"
    assert together(out) == together(whole)


def test_a_dry_run_writes_no_shard_and_its_scores_are_used(tmp_path: Path, clean: Call) -> None:
    """Guards: a run that says what it would do, and does it; a table to choose a share by, after which none may be
    chosen; a list that is as long as the items in one shard alone, by chance, and loses step with itself."""
    records = tasteful(64)
    for record in records[32:]:
        record["tags"] = ["a"] * len(record["items"])
    source, out = write_shards(tmp_path / "in", records, 32), tmp_path / "out"
    assert clean(source, out, "--ray", "--dry-run").code == 0
    assert not list(out.glob("*.jsonl"))
    changed = source / "part-001.jsonl"
    changed.write_bytes(b"".join(reversed(changed.read_bytes().splitlines(keepends=True))))
    stale = clean(source, out, "--ray", "--dry-run")  # as many bytes, and scores of other items
    assert (stale.code, "the shards" in stale.err) == (2, True), stale.err
    changed.write_bytes(b"".join(reversed(changed.read_bytes().splitlines(keepends=True))))
    shutil.rmtree(out)
    assert clean(source, out, "--ray", "--dry-run").code == 0
    looked = clean(source, out, "--ray", "--dry-run", "--edit", "3%", "--annotate")
    assert (looked.code, "scores of 2 of 2 shards are there already" in looked.err) == (0, True), looked.err
    done = clean(source, out, "--ray")
    assert (done.code, "scores of 2 of 2 shards are there already" in done.err) == (0, True)
    found = [json.loads(line) for line in together(out).splitlines()]
    assert [record["tags"] for record in found] == [record["tags"] for record in records]
    assert all(len(record["items"]) == len(record["ratings"]) for record in found)
    assert sum(len(record["items"]) for record in found[32:]) < 32 * 7


def test_parquet_comes_back_with_its_columns(tmp_path: Path, clean: Call) -> None:
    """Guards: a column that is lost, or of another type; rows of another order; row groups that become one; lists of
    dates and numbers that lose step; another judgement than of the same records as lines."""
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    records = tasteful(150)
    lines, tables = write_shards(tmp_path / "lines", records, 150), tmp_path / "tables"
    tables.mkdir()
    items = pa.list_(pa.struct([("id", pa.int32()), ("title", pa.string())]))
    numbers = {title: n for n, title in enumerate(sorted({title for one in records for title in one["items"]}))}
    ids = [[{"id": numbers[title], "title": title} for title in one["items"]] for one in records]
    days = [[datetime.datetime(2026, 1, 1 + n) for n, _ in enumerate(one["items"])] for one in records]
    table = pa.table(
        {
            "user_id": pa.array([one["user_id"] for one in records], pa.int64()),
            "items": pa.array(ids, items),
            "when": pa.array(days, pa.list_(pa.timestamp("us"))),
            "tags": pa.array([one["tags"] for one in records]),
            "blob": pa.array([bytes([n]) for n in range(150)], pa.binary()),
        }
    ).replace_schema_metadata({"made": "by hand"})
    pq.write_table(table, tables / "part-0.parquet", row_group_size=64, compression="zstd")
    table = pq.read_table(tables / "part-0.parquet")
    for source, out in ((lines, "lines.out"), (tables, "tables.out")):
        done = clean(source, tmp_path / out, "--ray", "--edit", "3%")
        assert done.code == 0, done.err
    cleaned = pq.read_table(tmp_path / "tables.out/part-0.parquet")
    file = pq.ParquetFile(tmp_path / "tables.out/part-0.parquet")
    assert cleaned.schema.equals(table.schema, check_metadata=True)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [64, 64, 22]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    for name in ("user_id", "tags", "blob"):
        assert cleaned[name].equals(table[name])
    wanted = [one["items"] for one in read(tmp_path / "lines.out/part-000.jsonl")]
    found = cleaned["items"].to_pylist()
    assert [[item["title"] for item in one] for one in found] == wanted
    assert sum(map(len, wanted)) < 150 * 7
    assert [[item["id"] for item in one] for one in found] == [[numbers[title] for title in one] for one in wanted]
    places = [[one["items"].index(title) for title in left] for one, left in zip(records, wanted, strict=True)]
    assert [[day.day - 1 for day in one] for one in cleaned["when"].to_pylist()] == places


def test_what_is_wrong_is_told_in_one_sentence(
    tmp_path: Path, clean_quietly: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: a traceback of Ray's, and output of another run that is taken for this one's."""
    source, out = write_shards(tmp_path / "in", tasteful(40), 20), tmp_path / "out"
    clean_quietly(source, out, "--ray=nowhere").failed(2, "--ray is nowhere", "HOST:PORT")
    clean_quietly(source, out, "--ray", "ray://head:10001").failed(2, "ray job submit")
    clean_quietly(source, out, "--ray-workers", "2").failed(2, "--ray-workers", "--ray")
    clean_quietly(source, out, "--ray", "--ray-workers", "9").failed(2, "--ray-workers is 9", "room for 2")
    clean_quietly(tmp_path / "none", out, "--ray").failed(2, "none", "no folder")
    clean_quietly(source / "part-000.jsonl", out, "--ray").failed(2, "is a file", "split")
    clean_quietly(source, out, "--ray", "--time-column", "t").failed(2, "--time-column", "convert")
    clean_quietly(source, "--ray", "--dry-run").failed(2, "OUT")
    before = together(source)
    catalog = write(tmp_path / "titles.jsonl", [{"id": "a", "title": "A"}])
    for folder in (source, source / "in", tmp_path, out, out / "audit"):
        clean_quietly(source, out, "--ray", "--audit", folder).failed(2, "--audit", "share a folder")
        rejects = ("--on-error", "skip", "--rejects", folder)
        clean_quietly(source, out, "--ray", *rejects).failed(2, "--rejects", "share a folder")
    for report in (source / "report.json", out / "report.json"):
        clean_quietly(source, out, "--ray", "--report", report).failed(2, "--report lies in")
    clean_quietly(source, out, "--ray", "--catalog", catalog, "--report", catalog).failed(2, "--report", "--catalog")
    assert together(source) == before
    assert clean_quietly(source, out, "--ray", "--threshold", "0.5").code == 0
    shard = out / "part-000.jsonl"
    kept = shard.rename(tmp_path / "kept")
    clean_quietly(source, out, "--ray", "--threshold", "0.5").failed(1, "part-000.jsonl", "delete _llm4dsr")
    kept.rename(shard)
    clean_quietly(source, out, "--ray", "--threshold", "0.6").failed(2, "another choice", "out")
    clean_quietly(source, tmp_path, "--ray").failed(2, "not empty")
    clean_quietly(source, source / "out", "--ray").failed(2, "out", "lies in the folder")
    with (source / "part-001.jsonl").open("ab") as file:
        file.write(b"[]\n")
    clean_quietly(source, tmp_path / "new", "--ray").failed(1, "part-001.jsonl:21")
    assert not list((tmp_path / "new").glob("*.jsonl"))
    (source / "Notes.txt").touch()
    clean_quietly(source, out, "--ray").failed(2, "Notes.txt", ".parquet")
    monkeypatch.setitem(sys.modules, "ray", None)
    clean_quietly(source, out, "--ray").failed(1, "ray is not installed", "pip install 'llm4dsr-cli[ray]'")
