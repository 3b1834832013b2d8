"""``llm4dsr clean`` of logs with a sequence a row: lists parallel to the items, and columns that are added."""

from __future__ import annotations

import ast
import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, call, write

pytestmark = pytest.mark.usefixtures("warm_environment")
N = 40
Rows = list[dict[str, Any]]


@pytest.fixture
def llm4dsr(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr(COMMAND, ...)`` in this process, ``clean`` with the tiny denoiser."""

    def run(command: str, *arguments: object) -> Any:
        return call(monkeypatch, capfdbinary, command, *(engine if command == "clean" else []), *arguments)

    return run


def rows() -> Rows:
    """Each user's items, a rating that tells its item, and lists that are no parallel ones."""
    rng = random.Random(0)
    found = []
    for user in range(N):
        items = rng.sample(range(10, 40), rng.randrange(4, 8))
        ratings = [item / 2 for item in items]
        found.append({"user": user, "item_ids": items, "ratings": ratings, "tags": [1, 2, 3, 4, 5], "age": user})
    return found


def write_csv(path: Path, of: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(of[0]))
        writer.writeheader()
        writer.writerows(of)


def read_csv(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: ast.literal_eval(cell) for name, cell in row.items()} for row in csv.DictReader(file, strict=True)
        ]


def write_inter(path: Path, of: Rows) -> None:
    header = "user:token\titem_ids_list:token_seq\tratings:float_seq\ttags:float_seq\tage:float"
    lines = [
        "\t".join(" ".join(map(str, cell)) if isinstance(cell, list) else str(cell) for cell in row.values())
        for row in of
    ]
    path.write_text("\n".join([header, *lines, ""]))


def read_inter(path: Path) -> Rows:
    header, *lines = path.read_text().splitlines()
    columns = [name.partition(":") for name in header.split("\t")]
    found = []
    for line in lines:
        cells = zip(columns, line.split("\t"), strict=True)
        found.append(
            {
                name.removesuffix("_list"): [float(one) for one in cell.split()] if kind.endswith("_seq") else cell
                for (name, _, kind), cell in cells
            }
        )
    return found


def write_parquet(path: Path, of: Rows) -> None:
    arrow = pytest.importorskip("pyarrow.parquet")
    arrow.write_table(pytest.importorskip("pyarrow").Table.from_pylist(of), path)


def read_parquet(path: Path) -> Rows:
    found: Rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    return found


KINDS: dict[str, tuple[Callable[[Path, Rows], None], Callable[[Path], Rows]]] = {
    "log.csv": (write_csv, read_csv),
    "log.inter": (write_inter, read_inter),
    "log.parquet": (write_parquet, read_parquet),
}


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    return write(tmp_path / "catalog.jsonl", [{"id": str(i), "title": f"Thing {i}, The"} for i in range(10, 40)])


@pytest.mark.parametrize("name", KINDS)
def test_parallel_lists_keep_step_and_others_stay(tmp_path: Path, llm4dsr: Call, catalog: Path, name: str) -> None:
    """Guards ratings that stand beside other items than they were given for, without a word."""
    write_kind, read_kind = KINDS[name]
    write_kind(tmp_path / name, rows())
    options = ["--catalog", catalog, "--edit", "30%"]
    done = llm4dsr("clean", tmp_path / name, tmp_path / f"out-{name}", *options)
    assert done.code == 0, done.err
    assert 'in step with the items: "ratings"' in done.err
    before, after = (read_kind(tmp_path / one) for one in (name, f"out-{name}"))
    assert sum(len(row["item_ids"]) for row in after) < sum(len(row["item_ids"]) for row in before)
    for old, new in zip(before, after, strict=True):
        assert [item / 2 for item in new["item_ids"]] == new["ratings"]
        assert [old[other] for other in ("user", "tags", "age")] == [new[other] for other in ("user", "tags", "age")]
    left = llm4dsr("clean", tmp_path / name, tmp_path / f"left-{name}", *options, "--not-parallel", "ratings")
    assert left.code == 0, left.err
    unequal = read_kind(tmp_path / f"left-{name}")
    assert [row["ratings"] for row in unequal] == [row["ratings"] for row in before]
    assert [row["item_ids"] for row in unequal] == [row["item_ids"] for row in after]


@pytest.mark.parametrize("name", KINDS)
def test_a_list_of_another_length_is_an_error_where_it_should_be_parallel(
    tmp_path: Path, llm4dsr: Call, catalog: Path, name: str
) -> None:
    """Guards a damaged row that is cut somewhere, and an option that nobody reads."""
    write_kind, _ = KINDS[name]
    write_kind(tmp_path / name, rows())
    options = ["--catalog", catalog, "--edit", "30%"]
    for more, code, said in (("tags", 1, "tags is no list as long as item_ids"), ("scores", 2, "no column scores")):
        done = llm4dsr("clean", tmp_path / name, *options, "--parallel-field", more, "--dry-run")  # before any scoring
        assert (done.code, said in done.err) == (code, True), done.err
    damaged = rows()
    for row in damaged[:2]:
        row["ratings"] = row["ratings"][1:]
    write_kind(tmp_path / name, damaged)
    done = llm4dsr("clean", tmp_path / name, tmp_path / "out", "--catalog", catalog, "--edit", "80%")
    assert (done.code, "row 1: ratings is no list as long as item_ids" in done.err) == (1, True), done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["log.csv", "log.inter"])
def test_all_edits_with_parallel_lists_taken_back_are_the_log(
    tmp_path: Path, llm4dsr: Call, catalog: Path, name: str
) -> None:
    """Guards ratings that do not come back with their items."""
    KINDS[name][0](tmp_path / name, rows())
    out, audit, back = (tmp_path / one for one in (f"out-{name}", "edits", f"back-{name}"))
    assert llm4dsr("clean", tmp_path / name, out, "--catalog", catalog, "--edit", "30%", "--audit", audit).code == 0
    assert llm4dsr("undo", audit, out, back).code == 0
    assert back.read_bytes() == (tmp_path / name).read_bytes() != out.read_bytes()


@pytest.mark.parametrize("name", KINDS)
def test_marks_and_probabilities_of_lists_are_lists_in_cells_of_their_own(
    tmp_path: Path, llm4dsr: Call, catalog: Path, name: str
) -> None:
    """Guards a list whose commas are taken for new cells, and a list whose column is said to hold numbers."""
    write_kind, read_kind = KINDS[name]
    write_kind(tmp_path / name, rows())
    out = tmp_path / f"out-{name}"
    done = llm4dsr(
        "clean", tmp_path / name, out, "--catalog", catalog, "--edit", "30%", "--action", "mark", "--annotate"
    )
    assert done.code == 0, done.err
    score = "noise_score" if name == "log.inter" else "noise_probability"
    for old, new in zip(read_kind(tmp_path / name), read_kind(out), strict=True):
        assert {column: new[column] for column in old} == old
        assert len(new["noise_flag"]) == len(new[score]) == len(old["item_ids"])
    again = llm4dsr("clean", out, tmp_path / f"again-{name}", "--catalog", catalog, "--edit", "30%")
    assert again.code == 0, again.err


def test_an_encoding_that_is_none_is_one_sentence(tmp_path: Path, llm4dsr: Call, catalog: Path) -> None:
    """Guards a traceback of Python's codecs."""
    write_csv(tmp_path / "log.csv", rows())
    llm4dsr("clean", tmp_path / "log.csv", tmp_path / "out.csv", "--catalog", catalog, "--encoding", "foo").failed(
        2, "foo: no such encoding"
    )
    assert json.loads((tmp_path / "catalog.jsonl").read_text().splitlines()[0])["id"] == "10"
