"""docs/recipes.md: each of its commands makes records of the file that is shown above it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm4dsr_cli.records.catalog import Catalog

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHAPES = {
    "ratings.csv": [["11", "150", "541"], ["377"]],
    "reviews.jsonl": [["B03", "B00"], ["B02"]],
    "ml.inter": [["11", "150"], ["377"]],
    "ml.train.inter": [["11", "150", "541"], ["377", "2"]],
    "train.csv": [["11", "150"], ["377"]],
    "strings.jsonl": [["11", "150"]],
    "blanks.jsonl": [["N1", "N2", "N3"]],
    "lists.jsonl": [["11", "150"], ["377"]],
    "news.tsv": [["N1", "N2", "N3"]],
    "pretty.json": [["11", "150"]],
    "dicts.txt": [["11", "150"]],
    "nan.jsonl": [["11", "150"]],
}


def recipes() -> list[tuple[str, str, dict[str, str]]]:
    """Name of the file above a command, the command, and all files above it by name; those with files of the page."""
    found, files, last = [], {}, ""
    for kind, name, text in BLOCK.findall(PAGE.read_text("utf-8")):
        if name:
            files[name], last = text, name
        elif kind == "sh" and "read_parquet" not in text and "llm4dsr" not in text:
            found.append((last, text, dict(files)))
    return found


@pytest.mark.parametrize(
    ("name", "command", "files"), recipes(), ids=[f"{name}-{n}" for n, (name, *_) in enumerate(recipes())]
)
def test_the_command_makes_records_of_the_file(tmp_path: Path, name: str, command: str, files: dict[str, str]) -> None:
    """Guards: a recipe that was never tried."""
    if "import pandas" in command and importlib.util.find_spec("pandas") is None:
        pytest.skip("pandas is not installed")
    if any(word in command and not shutil.which(word) for word in ("jq", "awk", "iconv", "bash")):
        pytest.skip("a program of the recipe is not installed")
    for file, text in files.items():
        (tmp_path / file).write_text(text, "utf-8")
    (tmp_path / "sequences.jsonl").write_text('{"user_id": 1, "items": [11], "ratings": [4], "timestamps": [9]}\n')
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    subprocess.run(["bash", "-ec", command], cwd=tmp_path, check=True, timeout=60, env=environment)
    if "cleaned.csv" in command:
        assert (tmp_path / "cleaned.csv").read_text() == "1,11,4,9\n"
        return
    if name == "u.item":
        assert list(Catalog.load(tmp_path / "movies.item")) == [("1", "Toy Story (1995)")]
        return
    if name == "news.tsv":
        assert Catalog.load(tmp_path / "news.item").title("N2") == '"Unbalanced quote title'
    made = tmp_path / ("papers.jsonl" if name == "train.csv" else "sequences.jsonl")
    field = "item_ids" if name == "train.csv" else "items"
    assert [[str(item) for item in json.loads(line)[field]] for line in made.read_text().splitlines()] == SHAPES[name]


def test_every_file_of_the_page_has_a_command() -> None:
    """Guards: a file that is shown, and a test that passes it over."""
    named = {name for name, *_ in recipes()}
    shown = {name for _, name, _ in BLOCK.findall(PAGE.read_text("utf-8")) if name}
    assert set(SHAPES) == named - {"u.item"}
    assert shown - named == {"behaviors.tsv"}
