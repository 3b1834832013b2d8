"""docs/recipes.md: each of its commands does with the files above it what the page says."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import REAL_CACHE

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S[^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What commands make records of, and the records' items.
SHAPES = {
    "strings.jsonl": [["11", "150"]],
    "blanks.jsonl": [["N1", "N2", "N3"]],
    "lists.jsonl": [["11", "150"], ["377"]],
    "pretty.json": [["11", "150"]],
    "dicts.txt": [["11", "150"]],
    "nan.jsonl": [["11", "150"]],
}
# For each log that the page cleans, what its rows are made of: user, item, rating, time.
ROWS: dict[str, tuple[str, Callable[[int, int, int, int], str]]] = {
    "ratings.csv": ("userId,movieId,rating,timestamp", lambda u, i, r, t: f"{u},{i},{r}.0,{t}"),
    "ratings.dat": ("", lambda u, i, r, t: f"{u}::{i}::{r}::{t}"),
    "u.data": ("", lambda u, i, r, t: f"{u}\t{i}\t{r}\t{t}"),
    "films.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        lambda u, i, r, t: f"{u}\t{i}\t{r}\t{t}",
    ),
    "reviews.jsonl": (
        "",
        lambda u, i, r, t: json.dumps(
            {
                "rating": r,
                "title": "Fine",
                "text": "",
                "asin": f"V{i}",
                "parent_asin": f"B{i}",
                "user_id": u,
                "timestamp": t,
            }
        ),
    ),
}
LISTS: dict[str, tuple[str, Callable[[int, Sequence[int]], list[str]]]] = {
    "films.train.inter": (
        "user_id:token\titem_id_list:token_seq\titem_id:token",
        lambda u, items: [f"{u}\t{' '.join(map(str, items[:-1]))}\t{items[-1]}"],
    ),
    "behaviors.tsv": (
        "",
        lambda u, items: [
            f"{u}{n}\tU{u}\t11/13/2019 8:36:57 AM\t{' '.join(f'N{i}' for i in items)}\tN1-{n}" for n in (0, 1)
        ],
    ),
    "train.csv": (
        "user_id,item_ids,item_titles",
        lambda u, items: [f'{u},"{[*items]}","{[title(i) for i in items]}"'],
    ),
}
CATALOGS: dict[str, tuple[str, Callable[[int], str]]] = {
    "movies.csv": ("movieId,title,genres", lambda i: f'{i},"{title(i)}",Drama'),
    "movies.dat": ("", lambda i: f"{i}::{title(i)}::Drama"),
    "u.item": ("", lambda i: f"{i}|{title(i)}|01-Jan-1995||http://x|0|1"),
    "films.item": ("item_id:token\tmovie_title:token_seq", lambda i: f"{i}\t{title(i)}"),
    "meta.jsonl": ("", lambda i: json.dumps({"main_category": "Movies", "title": title(i), "parent_asin": f"B{i}"})),
    "news.tsv": ("", lambda i: f"N{i}\tnews\tus\t{title(i)}\t\thttp://x\t[]\t[]"),
}
USERS, ITEMS, EACH = 40, 30, 8


def title(item: int) -> str:
    return f"Café, part {item}"


def text_of(header: str, rows: Sequence[str]) -> str:
    return "\n".join([*([header] if header else []), *rows]) + "\n"


def made() -> dict[str, bytes]:
    """Files like those of the page, with users enough to be cleaned."""
    rng = random.Random(0)
    taken = {user: rng.sample(range(1, ITEMS + 1), EACH) for user in range(USERS)}
    events = [
        (user, item, rng.randint(1, 5), 900_000_000 + 60 * at) for user in taken for at, item in enumerate(taken[user])
    ]
    rng.shuffle(events)
    found = {name: text_of(header, [row(*event) for event in events]) for name, (header, row) in ROWS.items()}
    for name, (header, rows) in LISTS.items():
        found[name] = text_of(header, [row for user, items in taken.items() for row in rows(user, items)])
    for name, (header, line) in CATALOGS.items():
        found[name] = text_of(header, [line(item) for item in range(1, ITEMS + 1)])
    sequences = [json.dumps({"user_id": user, "items": items}) for user, items in taken.items()]
    found["sequences.jsonl"] = text_of("", sequences)
    latin = ("movies.dat", "u.item")
    return {name: text.encode("latin-1" if name in latin else "utf-8") for name, text in found.items()}


def blocks() -> list[tuple[str, str, str]]:
    """Kind, what stands beside it, and text."""
    return [(kind, note, text) for kind, note, text in BLOCK.findall(PAGE.read_text("utf-8"))]


def shown() -> dict[str, bytes]:
    """The files of the page."""
    return {note: text.encode() for kind, note, text in blocks() if note and kind != "python"}


def commands(*, with_llm4dsr: bool) -> list[tuple[str, str]]:
    """The commands, each with the last file above it."""
    found, last = [], ""
    for kind, note, text in blocks():
        if kind != "python" and note:
            last = note
        elif kind == "sh" and ("llm4dsr" in text) == with_llm4dsr:
            found.append((last, text))
    return found


def ids(those: list[tuple[str, str]]) -> list[str]:
    return [f"{name}-{n}" for n, (name, _) in enumerate(those)]


def execute(command: str, folder: Path, **environment: str) -> None:
    """Run a command of the page, with an ``llm4dsr`` that is this one."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "llm4dsr").write_text(f'#!/bin/sh\nexec {sys.executable} -m llm4dsr_cli "$@"\n')
    (programs / "llm4dsr").chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LLM4DSR_CACHE") if name in os.environ}
    environment = {**kept, "PATH": path, "LC_ALL": "C.UTF-8", **environment}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, timeout=120, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def skip_without(command: str) -> None:
    for program in ("bash", "jq", "iconv", "xz"):
        if re.search(rf"\b{program}\b", command) and not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    if "parquet" in command and importlib.util.find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")


@pytest.mark.parametrize(("name", "command"), commands(with_llm4dsr=False), ids=ids(commands(with_llm4dsr=False)))
def test_a_command_makes_records_of_the_file_above_it(tmp_path: Path, name: str, command: str) -> None:
    """Guards: a recipe that was never tried."""
    skip_without(command)
    (tmp_path / name).write_bytes(shown()[name])
    execute(command, tmp_path)
    lines = (tmp_path / "sequences.jsonl").read_text().splitlines()
    assert [[str(item) for item in json.loads(line)["items"]] for line in lines] == SHAPES[name]


@pytest.mark.usefixtures("warm_environment")
@pytest.mark.parametrize(("name", "command"), commands(with_llm4dsr=True), ids=ids(commands(with_llm4dsr=True)))
def test_a_log_is_cleaned_and_is_otherwise_as_it_was(
    tmp_path: Path, name: str, command: str, tiny_denoiser: Path
) -> None:
    """Guards: a format that is not known by its name, a catalog that is not found, other bytes in what stays."""
    skip_without(command)
    for folder, given in ((tmp_path / "shown", shown()), (tmp_path / "made", made())):
        folder.mkdir()
        for file, data in {**made(), **given}.items():
            (folder / file).write_bytes(data)
        if "xz" in command:
            subprocess.run(["xz", "-k", "sequences.jsonl"], cwd=folder, check=True)
        if "parquet" in command:
            frames = pytest.importorskip("pandas")
            frames.read_csv(folder / "ratings.csv").to_parquet(folder / "log.parquet")
        execute(command, folder, LLM4DSR_MODEL=str(tiny_denoiser))
        if "parquet" in command:
            was, now = (frames.read_parquet(folder / f"{one}.parquet") for one in ("log", "cleaned"))
            assert len(now) == len(was) - len(was) // 20 and now.dtypes.equals(was.dtypes)
            continue
        if "convert" in command:
            assert n_lines(folder / "again.csv") == n_lines(folder / "ratings.csv")
            continue
        (out,) = [*folder.glob("cleaned.*"), *folder.glob("cleaned/*/*.inter")]
        if "sequences" in command:  # a pipe: how much is edited is the denoiser's calibration
            assert [json.loads(line)["user_id"] for line in out.read_bytes().splitlines()] == [*range(USERS)]
            continue
        before, after = (folder / name_of(command)).read_bytes().splitlines(), out.read_bytes().splitlines()
        if folder.name == "shown":
            assert after == before  # too few for an edit
        elif name_of(command) in LISTS:
            assert len(after) == len(before) and after != before
        else:
            left, n_dropped = iter(before), len(before) - len(after)
            assert all(line in left for line in after)
            low = [line for line in before if re.search(rb",[12]\.0,", line)] if "--where" in command else []
            assert {*low} <= {*after} and n_dropped == (USERS * EACH - len(low)) // 20


def n_lines(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def name_of(command: str) -> str:
    match = re.search(r"llm4dsr clean (\S+)", command)
    assert match is not None
    return match[1]


def test_the_programs_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: names and arguments that are not there; where a library of the page is installed, what it is given."""
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    for file, data in made().items():
        (tmp_path / file).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM4DSR_CACHE", str(REAL_CACHE))
    folder = tmp_path / "cleaned" / "films"
    folder.mkdir(parents=True)
    for file in ("films.inter", "films.item"):
        shutil.copy(file, folder)
    names: dict[str, Any] = {}
    n_run = 0
    for kind, note, text in blocks():
        library = note.removeprefix("needs ")
        if kind != "python" or (library and importlib.util.find_spec(library) is None):
            continue
        exec(compile(text, f"{PAGE} {library}", "exec"), names)
        n_run += 1
        if not library:
            assert len(names["cleaned"]) == USERS * EACH - USERS * EACH // 20
    assert n_run >= 2


def test_every_file_of_the_page_is_tried() -> None:
    """Guards: a file that is shown, and a test that passes it over."""
    tried = {*SHAPES, *ROWS, *LISTS, *CATALOGS}
    assert {*shown()} == tried
    assert {name for name, _ in commands(with_llm4dsr=False)} == {*SHAPES}
    assert {*ROWS, *LISTS} <= {name_of(text) for _, text in commands(with_llm4dsr=True) if "llm4dsr clean" in text}
