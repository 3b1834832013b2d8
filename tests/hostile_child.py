"""The child of ``hostile_files.py``: damages files, runs commands on each in this process, and tells what happened.

    python tests/hostile_child.py KIND SEED FIRST LAST FOLDER

A JSON object a line on standard output: before a file is tried, and after.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import random
import shutil
import sys
import traceback
import warnings
from pathlib import Path

import gguf_mutants
import typer.main
import zip_mutants
from hostile_files import KINDS

from llm4dsr_cli.__main__ import main
from llm4dsr_cli.cache import cache_folder
from llm4dsr_cli.model import download
from llm4dsr_cli.model.registry import BaseEntry, Registry, WheelSource

MEMORY = 6 << 30  # bytes of address space


class Trials:
    """Model files, ``structured`` and ``flipped`` by turns; other kinds of files have classes of their own.

    Args:
        folder: what ``hostile_files.originals`` wrote.
        work: a folder of this child's own.
    """

    def __init__(self, kind: str, folder: Path, work: Path) -> None:
        self.kind, self.folder, self.work = kind, folder, work
        self.file = work / "file.gguf"
        self.out = work / "out.jsonl"
        paths = sorted(folder.glob(f"{kind}*.gguf"))
        self._wholes, self._parts = [path.read_bytes() for path in paths], [*map(gguf_mutants.take_apart, paths)]

    def mutant(self, at: int, number: int) -> tuple[bytes, str]:
        """The damaged file of a number, and what was done to it."""
        whole, parts = self._wholes[at // 2 % len(self._wholes)], self._parts[at // 2 % len(self._parts)]
        if at % 2:
            return gguf_mutants.flipped(whole, number, len(whole) - sum(len(tensor.data) for tensor in parts.tensors))
        return gguf_mutants.structured(parts, number)

    def place(self, data: bytes) -> None:
        """Put a damaged file where the commands find it."""
        shutil.rmtree(cache_folder(), ignore_errors=True)
        self.file.write_bytes(data)

    def clean(self, model: Path, base: Path, *options: str) -> list[str]:
        given = ["--model", str(model), "--base", str(base), "--weights", "bf16", "--threads", "1", *options]
        return ["clean", str(self.folder / "in.jsonl"), str(self.out), *given]

    def commands(self, at: int) -> list[list[str]]:
        """What is run on it, until something is refused."""
        commands = [["models", "show", str(self.file)], self.clean(self.file, self.folder / "base.gguf", *DROP)]
        if self.kind == "adapter" and at % 4 < 2:
            commands.append(self.clean(self.file, self.folder / "base.gguf", *GENERATE))
        return commands

    def believed(self, outcome: str) -> str:
        """What of a damaged file was taken for good; empty for nothing."""
        return ""


DROP = ("--threshold", "0.6", "--action", "drop")
GENERATE = ("--threshold", "0.6", "--action", "replace", "--proposer", "generate")


class Bases(Trials):
    """Base models, of which an adapter says that it was made for just this one."""

    def place(self, data: bytes) -> None:
        super().place(data)
        good, new = (hashlib.sha256(content).hexdigest().encode() for content in (self._wholes[0], data))
        adapter = (self.folder / "adapter.gguf").read_bytes()
        (self.work / "adapter.gguf").write_bytes(adapter.replace(good, new))

    def commands(self, at: int) -> list[list[str]]:
        adapter = self.work / "adapter.gguf"
        kinds = [DROP, GENERATE] if at % 4 < 2 else [DROP]
        return [self.clean(adapter, self.file, *options) for options in kinds]


class Zips(Trials):
    """ZIP files."""

    def __init__(self, kind: str, folder: Path, work: Path) -> None:
        super().__init__(kind, folder, work)
        self.whole = self.original()

    def original(self) -> bytes:
        raise NotImplementedError

    def mutant(self, at: int, number: int) -> tuple[bytes, str]:
        if at % 2:
            return gguf_mutants.flipped(self.whole, number, len(self.whole))
        return zip_mutants.structured(self.whole, number)


class Gates(Zips):
    """Gates for a denoiser that is whole."""

    def original(self) -> bytes:
        return (self.folder / "whole.gate").read_bytes()

    def place(self, data: bytes) -> None:
        self.file.write_bytes(data)

    def commands(self, at: int) -> list[list[str]]:
        return [
            self.clean(
                *(self.folder / "adapter.gguf", self.folder / "base.gguf"),
                *("--gate", str(self.file), "--false-edit-rate", "0.05", "--action", "drop"),
            )
        ]


class Wheels(Zips):
    """Wheels with a base model whose hash is known. Pip, which is not ours and refuses most of them, is left out."""

    def original(self) -> bytes:
        self.base = (self.folder / "base.gguf").read_bytes()
        about = {"tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"}
        sha256 = hashlib.sha256(self.base).hexdigest()
        entry = BaseEntry("tiny", "Tiny", "MIT", "llama", sha256, len(self.base), WheelSource("tiny", "b"))
        registry = Registry(self.work, {"tiny": entry}, {}, None)
        Registry.load = lambda path=None: registry  # type: ignore[method-assign, assignment, misc]
        download._bring = lambda source, folder: Path(shutil.copy(self.file, folder))  # type: ignore[assignment]
        return zip_mutants.packed({"b": self.base, **about})

    def commands(self, at: int) -> list[list[str]]:
        return [["models", "pull", "tiny"]]

    def believed(self, outcome: str) -> str:
        found = [path.read_bytes() for path in cache_folder().rglob("*") if path.is_file()]
        expected = [self.base] if outcome == "worked" else []
        return "" if found == expected else f"{len(found)} files lie in the cache"


class Caches(Trials):
    """What the cache holds of a denoiser: merged models, and tries. A damaged one must not change what comes out."""

    def __init__(self, kind: str, folder: Path, work: Path) -> None:
        super().__init__(kind, folder, work)
        self.good = work / "good"
        shutil.rmtree(cache_folder(), ignore_errors=True)
        outcome = run(self.commands(0)[0])
        assert outcome == ("worked", ""), outcome
        shutil.rmtree(self.good, ignore_errors=True)
        shutil.copytree(cache_folder(), self.good)
        self.expected = self.out.read_bytes()
        self.names = sorted(path.relative_to(self.good) for path in self.good.rglob("*.*") if path.suffix != ".lock")
        assert {name.parts[0] for name in self.names} == {"runtime", "tries"}

    def mutant(self, at: int, number: int) -> tuple[bytes, str]:
        self.name = self.names[at % len(self.names)]
        whole = (self.good / self.name).read_bytes()
        size = random.Random(number).choice([min(2000, len(whole)), len(whole)])
        data, what = gguf_mutants.flipped(whole, number, size)
        return data, f"{what} of {self.name.parent}"

    def place(self, data: bytes) -> None:
        shutil.rmtree(cache_folder(), ignore_errors=True)
        shutil.copytree(self.good, cache_folder())
        (cache_folder() / self.name).write_bytes(data)
        self.out.unlink(missing_ok=True)

    def commands(self, at: int) -> list[list[str]]:
        catalog = ("--catalog", str(self.folder / "catalog.jsonl"))
        return [self.clean(self.folder / "adapter.gguf", self.folder / "base.gguf", *GENERATE, *catalog)]

    def believed(self, outcome: str) -> str:
        return "" if self.out.is_file() and self.out.read_bytes() == self.expected else "what comes out differs"


CLASSES = {"base": Bases, "gate": Gates, "wheel": Wheels, "cache": Caches}


def attempt(trials: Trials, data: bytes, at: int) -> tuple[str, str]:
    """How a damaged file ended, and a word on it."""
    trials.place(data)
    for command in trials.commands(at):
        outcome, detail = run(command)
        if outcome != "worked":
            detail = f"{' '.join(command[:2])[:12]}: {detail}"
            break
    if outcome in ("worked", "refused") and (what := trials.believed(outcome)):
        return "believed", f"{what} ({outcome} {detail})"
    return outcome, detail


def run(arguments: list[str]) -> tuple[str, str]:
    """One command in this process."""
    sys.argv = ["llm4dsr", *arguments]
    shown, said = io.StringIO(), io.StringIO()
    with (
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(said),
    ):
        warnings.simplefilter("always")
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            *_, (where, line) = traceback.walk_tb(error.__traceback__)
            return "exception", f"{type(error).__name__} {str(error)[:80]!r} {where.f_code.co_filename}:{line}"
    lines = said.getvalue().splitlines()
    for line in [*lines, *shown.getvalue().split("\n")]:
        if not line.isprintable():
            return "raw", repr(line[:300])
    if code != 0:
        # Earlier lines tell what was going on.
        sentences = [line for line in lines if line.startswith("llm4dsr: ")]
        return ("refused", lines[-1]) if [lines[-1:]] == [sentences] else ("raw", repr(lines))
    return ("no numbers", str(warned[0].message)) if warned else ("worked", "")


def child(kind: str, seed: int, first: int, last: int, folder: Path) -> None:
    with contextlib.suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Half of the time would go into building the same command line.
    typer.main.get_command = functools.cache(typer.main.get_command)
    work = folder / f"work-{kind}"
    work.mkdir(exist_ok=True)
    trials = CLASSES.get(kind, Trials)(kind, folder, work)
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        for at in range(first, last):
            number = (seed * 1_000_003 + at) * len(KINDS) + KINDS.index(kind)
            data, what = trials.mutant(at, number)
            out.write(json.dumps({"at": at, "what": what}) + "\n")
            outcome, detail = attempt(trials, data, at)
            out.write(json.dumps({"at": at, "what": what, "outcome": outcome, "detail": detail}) + "\n")


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
