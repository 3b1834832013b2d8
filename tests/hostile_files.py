"""Runs ``llm4dsr`` on damaged files by the thousand, in child processes that are watched, and counts what happens.

A child (``hostile_child.py``) tries many files, one after the other, in one process: it is quick, and an abort or a
hang takes only the child.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf_mutants import of_other_architecture, take_apart

from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import N_FEATURES, Fusion
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.thresholds import ThresholdCurve

HERE = Path(__file__).resolve().parent
KINDS = ("adapter", "merged", "base", "gate", "wheel", "cache")
# What can happen to a file. "raw": a message of several lines, or with characters that a terminal would obey.
# "believed": what was damaged was taken for good, where a hash is known.
OUTCOMES = ("worked", "refused", "abort", "hang", "exception", "no numbers", "raw", "believed")
PATIENCE_S = 20
TITLES = ["Alien", "Aliens", "Heat", "Up", "Seven Samurai", "Ran", "Brazil", "Jaws"]


@dataclass
class Table:
    """How many files ended in which way, and the first of those that did not end well."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.counts.total()

    def add(self, outcome: str, detail: str) -> None:
        self.counts[outcome] += 1
        if outcome not in ("worked", "refused"):
            self.failures.append(f"{outcome}: {detail}")


def originals(folder: Path) -> None:
    """Write the good files that the damaged ones are made of: a tiny random model, its adapter, both merged, a gate."""
    from conftest import write_tiny_adapter, write_tiny_base

    from llm4dsr_cli.cache import file_sha256
    from llm4dsr_cli.model.merged_model import merge

    folder.mkdir(parents=True, exist_ok=True)
    base = write_tiny_base(folder / "base.gguf")
    write_tiny_adapter(folder / "adapter.gguf", base, suggests=True)
    for weights in ("bf16", "q8_0"):
        merge(folder / "adapter.gguf", base, folder / f"merged-{weights}.gguf", weights)
    denoiser = take_apart(folder / "merged-bf16.gguf")
    for architecture in ("qwen2", "qwen3", "gemma3"):
        plain = write_tiny_base(folder / "plain.gguf", architecture=architecture)
        merged = of_other_architecture(take_apart(plain), denoiser)
        (folder / f"merged-{architecture}.gguf").write_bytes(merged.encoded())
    _gate(file_sha256(folder / "adapter.gguf")).save(folder / "whole.gate")
    (folder / "catalog.jsonl").write_text("".join(json.dumps({"id": title, "title": title}) + "\n" for title in TITLES))
    records = [{"items": ["Alien", "Aliens", "Heat"]}, {"items": ["Up"]}, {"items": ["a b", "七人の侍", "x" * 99]}]
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _gate(sha256: str) -> GateFile:
    rng = np.random.default_rng(0)
    evidence = Evidence.count([(user, [TITLES[i] for i in rng.integers(0, len(TITLES), 6)]) for user in range(12)])
    alone, fused = (ThresholdCurve.fit(rng.normal(size=5000)) for _ in range(2))
    fusion = Fusion(-1.0, rng.normal(size=N_FEATURES), rng.normal(size=N_FEATURES), np.ones(N_FEATURES))
    return GateFile("tiny-denoiser", sha256, alone, fused, fusion, evidence, evidence.users[:5], {"sequences": 12})


def campaign(kind: str, n: int, seed: int, folder: Path, *, patience: float = PATIENCE_S) -> Table:
    """Try ``n`` files of a kind, which ``originals`` has made, in as many children as it takes."""
    table = Table()
    first = 0
    while first < n:
        first = _watch(kind, seed, first, n, folder, table, patience)
    return table


def _watch(kind: str, seed: int, first: int, last: int, folder: Path, table: Table, patience: float) -> int:
    """Start a child at the file ``first``; returns the one to go on with after it has ended or was ended."""
    command = [sys.executable, str(HERE / "hostile_child.py"), kind, *map(str, (seed, first, last)), str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLM4DSR_")}
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    environment |= {"PYTHONPATH": paths, "GGML_NO_BACKTRACE": "1", "LLM4DSR_CACHE": str(folder / f"cache-{kind}")}
    log = folder / f"{kind}.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment) as child,
        selectors.DefaultSelector() as ready,
    ):
        assert child.stdout is not None
        ready.register(child.stdout, selectors.EVENT_READ)
        at, what, line = first, "before the first file", b""
        while ready.select(patience):
            piece = os.read(child.stdout.fileno(), 1 << 16)
            *lines, line = (line + piece).split(b"\n")
            for whole in lines:
                message = json.loads(whole)
                at, what = message["at"], message["what"]
                if "outcome" in message:
                    table.add(message["outcome"], f"{kind} {seed} {at} ({what}): {message['detail']}")
                    at += 1
            if not piece:
                code = child.wait()
                if at < last:
                    assert code != 0 and what != "before the first file", log.read_text(errors="replace")
                    words = log.read_text(errors="replace").strip().splitlines()[-1:] or [f"code {code}"]
                    table.add("abort", f"{kind} {seed} {at} ({what}): {code} {words[0]}")
                return at + 1
        child.kill()
        table.add("hang", f"{kind} {seed} {at} ({what})")
        return at + 1
