"""How much memory runs take, from a thousand to a million lines, and for large lines and catalogs; a markdown table.

    python benchmarks/memory.py --lines 1000 1000000

With a tiny random model, whose own share is small, so that what the records take shows. Each row is a process of its
own; "largest" is its largest resident set (getrusage, in MB of 1,000,000 bytes). Each user has one line of four items,
of 50,000 in the catalog.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from conftest import write_tiny_adapter, write_tiny_base  # noqa: E402

ITEMS, A_LINE = 50_000, 4


def write_lines(path: Path, lines: Iterator[object]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
    return path


def catalog(path: Path, items: int, description: str = "") -> Path:
    return write_lines(path, ({"id": i, "title": f"Thing number {i}", "about": description} for i in range(items)))


def records(path: Path, n: int, a_line: int = A_LINE) -> Path:
    rng = random.Random(0)
    return write_lines(path, ({"user_id": u, "items": rng.choices(range(ITEMS), k=a_line)} for u in range(n)))


def measured(words: list[str], environment: dict[str, str]) -> str:
    """The cells of a run: how it ended, MB and seconds."""
    began = time.monotonic()
    threads = [] if words[0] == "apply" else ["--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llm4dsr_cli", *words, "--quiet", *threads],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read().strip()
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    largest = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return f"{'done' if code == 0 else f'{code}: {said[-90:]}'} | {largest:,.0f} | {time.monotonic() - began:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, nargs="+", default=[1_000, 1_000_000])
    said = parser.parse_args()
    print("| command | input | ends | largest, MB | seconds |\n| --- | --- | --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = write_tiny_base(folder / "base.gguf")
        engine = ["--model", str(write_tiny_adapter(folder / "tiny.gguf", base)), "--base", str(base)]
        environment = {**os.environ, "LLM4DSR_CACHE": str(folder / "cache")}
        titles = ["--catalog", str(catalog(folder / "catalog.jsonl", ITEMS))]

        def row(told: str, words: list[str], source: Path, what: str, more: list[str]) -> None:
            made = [str(source), str(folder / "out.jsonl")]
            for path in folder.glob("out*"):
                path.unlink()
            print(f"| `{told}` | {what} | {measured([words[0], *made, *words[1:], *more], environment)} |", flush=True)

        alone = ["clean", "--threshold", ".5", "--no-fusion"]
        for n in said.lines:
            source, what = records(folder / "in.jsonl", n), f"{n:,} lines"
            row("clean --no-fusion --threshold .5", alone, source, what, [*engine, *titles])
            row("clean", ["clean"], source, what, [*engine, *titles])
            row("score", ["score"], source, what, [*engine, *titles])
            scored = (folder / "out.jsonl").rename(folder / "scored.jsonl")
            row("apply --threshold .5", ["apply", "--threshold", ".5"], scored, what, titles)
            row("apply", ["apply"], scored, what, titles)
        source = records(folder / "in.jsonl", 1, 20_000)
        row("clean --no-fusion --threshold .5", alone, source, "a sequence of 20,000 items", [*engine, *titles])
        source = write_lines(folder / "in.jsonl", iter([{"items": [1, 2, 3], "more": "x" * 50_000_000}]))
        row("clean --no-fusion --threshold .5", alone, source, "a line of 50 MB", [*engine, *titles])
        source = records(folder / "in.jsonl", 100)
        for items, description in ((1_000_000, ""), (1_000_000, "x" * 200)):
            large = catalog(folder / "large.jsonl", items, description)
            what = f"a catalog of {items:,} items, {large.stat().st_size / 1e6:.0f} MB"
            row("clean --no-fusion --threshold .5", alone, source, what, [*engine, "--catalog", str(large)])
            large.unlink()


if __name__ == "__main__":
    main()
