"""What part of scoring is llama.cpp's, how full its micro-batches are, and what other orders would gain: markdown.

    python benchmarks/decoding_share.py

Seconds are of one thread's CPU time, so that a busy machine touches them less. First, of the steps of scoring windows:
llama.cpp's decoding, what is read off its logits, and the rest (tokenizing, packing). Then windows packed in several
orders, of which random micro-batches are decoded in turn:

- as they come: a micro-batch takes windows until the next one does not fit; `clean` does it 64 records at a time;
- by length: of so many records the longest window first, then whatever still fits (first fit decreasing).

"Empty" is the share of the micro-batches' tokens that nothing fills; "time a token" is beside what `clean` does.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import llama_cpp
import numpy as np

from llm4dsr_cli import Catalog, Denoiser
from llm4dsr_cli.model import llama
from llm4dsr_cli.model.engine import Request
from llm4dsr_cli.scores import BATCH_RECORDS
from llm4dsr_cli.windows import overlapping_windows

REPOSITORY = Path(__file__).resolve().parents[1]
T = TypeVar("T")
FILES = {"toy": "valid", "movie": "valid", "office": "train"}


def read_windows(folder: Path, n: int, max_window: int) -> list[list[str]]:
    catalog = Catalog.load(folder / "catalog.jsonl")
    file = folder / f"{FILES.get(folder.name, 'sequences')}.jsonl"
    windows: list[list[str]] = []
    with file.open(encoding="utf-8") as lines:
        for items in (json.loads(line)["items"] for line in lines):
            titles = [title for item in items if (title := catalog.title(item)) is not None]
            windows += [titles[one.start : one.end] for one in overlapping_windows(len(titles), max_window)]
            if len(windows) >= n:
                break
    return windows[:n]


class Clock:
    """CPU seconds in calls of functions, by name."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[name] += time.process_time() - began  # type: ignore[assignment]

        return call


def packed(requests: Sequence[Request], size: int, most: int) -> list[list[Request]]:
    """As the engine packs them: in their order."""
    batches: list[list[Request]] = [[]]
    for request in requests:
        if batches[-1] and (
            sum(len(r.tokens) for r in batches[-1]) + len(request.tokens) > size or len(batches[-1]) == most
        ):
            batches.append([])
        batches[-1].append(request)
    return batches


def by_length(requests: Sequence[Request], size: int, most: int) -> list[list[Request]]:
    """First fit decreasing."""
    batches: list[list[Request]] = []
    room: list[int] = []
    for request in sorted(requests, key=lambda one: -len(one.tokens)):
        for number, left in enumerate(room):
            if len(request.tokens) <= left and len(batches[number]) < most:
                break
        else:
            number = len(batches)
            batches.append([])
            room.append(size)
        batches[number].append(request)
        room[number] -= len(request.tokens)
    return batches


def in_parts(every: Sequence[T], n: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(every), n):
        yield every[start : start + n]


def shares(denoiser: Denoiser, windows: list[list[str]]) -> str:
    """Cells: CPU ms an item, and what part of it are llama.cpp's decoding, what is read off it, and the rest."""
    plain_decode, plain_context = llama_cpp.llama_decode, llama.Context.decode
    clock = Clock()
    llama_cpp.llama_decode = clock.timed("decode", plain_decode)
    llama.Context.decode = clock.timed("context", plain_context)  # type: ignore[method-assign]
    score = clock.timed("score", denoiser.score)
    for part in in_parts(windows, BATCH_RECORDS):
        score(part)
    llama_cpp.llama_decode, llama.Context.decode = plain_decode, plain_context  # type: ignore[method-assign]
    whole, context, decode = (clock.seconds[step] for step in ("score", "context", "decode"))
    parts = [decode / whole, (context - decode) / whole, (whole - context) / whole]
    return f"{1000 * whole / sum(map(len, windows)):.2f} | {' | '.join(f'{part:.1%}' for part in parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["toy", "movie", "office", "steam", "film"])
    parser.add_argument("--windows", type=int, default=2_048, help="so many are packed")
    parser.add_argument("--timed", type=int, default=128, help="so many are scored, and so many micro-batches decoded")
    arguments = parser.parse_args()
    timed, orders = [], []
    with Denoiser.load(threads=1) as denoiser:
        engine, prompter = denoiser._engine, denoiser._prompter
        size, most = engine.batch_tokens, engine._context.max_sequences
        for name in arguments.domains:
            windows = read_windows(arguments.data / name, arguments.windows, denoiser.metadata.max_window)
            prompts = [prompter.prompt(prompter.different(titles)[0]) for titles in windows]
            requests = [Request(prompt.tokens, prompt.probes) for prompt in prompts]
            tokens = sum(len(one.tokens) for one in requests)
            ways = {
                "as they come": packed(requests, size, most),
                "as they come, of 64": [b for part in in_parts(requests, 64) for b in packed(part, size, most)],
                "by length, of 64": [b for part in in_parts(requests, 64) for b in by_length(part, size, most)],
                "by length, of 1,024": [b for part in in_parts(requests, 1_024) for b in by_length(part, size, most)],
            }
            spent, read = Counter[str](), Counter[str]()
            chosen = np.random.default_rng(0).random(arguments.timed // len(ways))
            for at in chosen:
                for way, batches in ways.items():
                    batch = batches[int(at * len(batches))]
                    began = time.process_time()
                    engine._decode(batch, prompter.answers)
                    spent[way] += time.process_time() - began  # type: ignore[assignment]
                    read[way] += sum(len(one.tokens) for one in batch)
            per_item = tokens / sum(map(len, windows))
            if arguments.timed:
                first = spent["as they come, of 64"] / read["as they come, of 64"]
                timed.append(f"| {name} | {per_item:.1f} | {shares(denoiser, windows[: arguments.timed])} |")
            for way, batches in ways.items():
                empty = 1 - tokens / (size * len(batches))
                time_of = f"{spent[way] / read[way] / first:.3f}" if arguments.timed else ""
                orders.append(f"| {name} | {way} | {len(batches)} | {empty:.1%} | {time_of} |")
            print(*timed[-1:], *orders[-4:], sep="\n", flush=True)
    print("\n| data | tokens an item | CPU ms an item | llama.cpp | its logits read | the rest |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", *timed, sep="\n")
    print("\n| data | order | micro-batches | empty | time a token |")
    print("| --- | --- | ---: | ---: | ---: |", *orders, sep="\n")


if __name__ == "__main__":
    main()
