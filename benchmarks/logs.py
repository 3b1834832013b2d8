"""Gathering a large log: how long it takes and how much memory, for rows by user and rows by time; a table as markdown.

    python benchmarks/logs.py --rows 1000000 20000000

A CSV as MovieLens 20M has them is written: of a user for each 145 rows, 27,000 items, times as seconds. Each way is a
process of its own: reading it into sequences (``convert`` to JSON lines), and writing it back with a twentieth of the
rows dropped.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from llm4dsr_cli.records.logs.gathered import gather
from llm4dsr_cli.records.logs.log import LogOptions
from llm4dsr_cli.records.logs.row_file import Changes

ITEMS, ROWS_OF_A_USER = 27_000, 145


def write_log(path: Path, rows: int, *, by_user: bool) -> None:
    rng = random.Random(0)
    users = max(1, rows // ROWS_OF_A_USER)
    with path.open("w", encoding="utf-8") as file:
        file.write("userId,movieId,rating,timestamp\n")
        for row in range(rows):
            user = row // ROWS_OF_A_USER if by_user else rng.randrange(users)
            file.write(f"{user},{rng.randrange(ITEMS)},{rng.randint(1, 5)},{1_000_000_000 + rng.randrange(10**8)}\n")


def read_and_write(path: str, out: str) -> tuple[float, float, float]:
    """Seconds of reading and of writing, and MB at the most."""
    began = time.monotonic()
    found = gather(path, LogOptions(), user_field="user_id", whole=True)
    assert found is not None
    read = time.monotonic()
    changes = Changes(bytearray(found.log.judged))
    changes.dropped[::20] = b"\x01" * len(changes.dropped[::20])
    with Path(out).open("wb") as file:
        found.log.file.write(file.write, changes)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return read - began, time.monotonic() - read, largest


def by_duckdb(path: str) -> float:
    """Seconds that DuckDB takes to read the same file, and to group and order it; for comparison, where it is there."""
    import duckdb

    began = time.monotonic()
    duckdb.execute("set threads to 1; set memory_limit = '2GB'")
    query = f"select userId, list(movieId order by timestamp), list(rating order by timestamp) from '{path}' group by 1"
    duckdb.execute(f"copy ({query}) to '{path}.json' (format json)")
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--folder", type=Path, help="where the log is written; default: a temporary folder")
    parser.add_argument("--duckdb", action="store_true", help="let DuckDB read the same (pip install duckdb)")
    arguments = parser.parse_args()
    print(
        "| rows | order | file, MB | reading, s | writing, s | memory, MB |\n| ---: | --- | ---: | ---: | ---: | ---: |"
    )
    for rows in arguments.rows:
        for by_user in (True, False):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                path = Path(folder, "ratings.csv")
                write_log(path, rows, by_user=by_user)
                with get_context("spawn").Pool(1) as pool:
                    read, write, memory = pool.apply(read_and_write, (str(path), str(Path(folder, "out.csv"))))
                order = "by user" if by_user else "by no user"
                size = path.stat().st_size / 1e6
                print(f"| {rows:,} | {order} | {size:,.0f} | {read:.0f} | {write:.0f} | {memory:,.0f} |", flush=True)
                if arguments.duckdb:
                    print(f"DuckDB reads, groups and writes JSON in {by_duckdb(str(path)):.1f} s", flush=True)


if __name__ == "__main__":
    main()
