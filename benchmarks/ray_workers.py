"""What a million sequences cost on Ray: sequences a second with one worker and with two; markdown on standard output.

    python benchmarks/ray_workers.py --sequences 2000 --repeat 3

Cleans the example sequences, again and again with their items in another order and other users, as shards on a Ray of
this machine. The numbers of workers are taken in turn, and medians shown. Rates are of the workers' own time, without
their start; the passes that hold no model are shown as a share of it. The extrapolation is a division.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from llm4dsr_cli.cleaning.settings import CleaningSettings
from llm4dsr_cli.defaults import EDIT
from llm4dsr_cli.distributed import FolderRun, Shards, clean_folder, joined
from llm4dsr_cli.records.catalog import Catalog

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PER_SHARD = 64


def write_shards(folder: Path, n: int) -> str:
    """A folder of n sequences; where it is."""
    rng = random.Random(0)
    records = [json.loads(line) for line in (EXAMPLES / "sequences.jsonl").read_text().splitlines()]
    folder.mkdir()
    for start in range(0, n, PER_SHARD):
        with (folder / f"part-{start // PER_SHARD:05}.jsonl").open("w") as file:
            for user in range(start, min(start + PER_SHARD, n)):
                items = records[user % len(records)]["items"]
                record = {"user_id": user, "items": rng.sample(items, len(items))}
                file.write(json.dumps(record) + "\n")
    return str(folder)


def run(source: str, target: Path, workers: int, loading: dict[str, Any]) -> FolderRun:
    catalog = Catalog.load(EXAMPLES / "catalog.jsonl")
    with joined("local", workers=workers, threads=1) as cluster:
        done = clean_folder(
            cluster, Shards(source, str(target), catalog=catalog), CleaningSettings(edit=EDIT), **loading
        )
    assert done is not None
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="denoiser; default: the one that ships")
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    rates: dict[int, list[float]] = {workers: [] for workers in arguments.workers}
    other: dict[int, list[float]] = {workers: [] for workers in arguments.workers}
    with tempfile.TemporaryDirectory() as name:
        source = write_shards(Path(name, "in"), arguments.sequences)
        for number in range(arguments.repeat):
            for workers in arguments.workers:
                done = run(source, Path(name, f"out-{number}-{workers}"), workers, {"model": arguments.model})
                rates[workers].append(sum(n / seconds for _, n, seconds in done.rates.values()))
                other[workers].append(sum(done.work.values()) / done.work["scored"] - 1)
    print(f"{arguments.sequences:,} sequences, shards of {PER_SHARD}, one thread a worker, {arguments.repeat} runs\n")
    print("| workers | sequences/s each | together | as fast | other passes | a million sequences |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    first = float(np.median(rates[arguments.workers[0]])) / arguments.workers[0]
    for workers in arguments.workers:
        rate, more = float(np.median(rates[workers])), float(np.median(other[workers]))
        hours = 1e6 / rate * (1 + more) / 3600
        print(
            f"| {workers} | {rate / workers:.1f} | {rate:.1f} | {rate / first:.2f}x | +{more:.0%} of the time | "
            f"{hours:.1f} h, {hours * workers:.1f} h of CPU |"
        )


if __name__ == "__main__":
    main()
