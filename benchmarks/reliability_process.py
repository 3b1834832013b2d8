"""How the program behaves as a process: killed, told to end, without its standard streams, and beside itself.

    PYTHONPATH=. python benchmarks/reliability_process.py 40 --seed 0

Each kind of trial is run N times, at moments that the seed fixes (and the machine's load shifts), with a tiny random
model, so that many runs fit. The table is that of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from command_line import sequences, write  # noqa: E402
from conftest import write_tiny_adapter, write_tiny_base  # noqa: E402

# Signals are heeded even where this script runs in the background, and its children would inherit that they are not.
HEEDED = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)\n"
    "from llm4dsr_cli.__main__ import main\n"
    "main()\n"
)
AT_A_LOG_LINE = (
    "import logging, os\n"
    "class Sender(logging.Handler):\n"
    "    left = {line}\n"
    "    def emit(self, record):\n"
    "        Sender.left -= 1\n"
    "        if not Sender.left: os.kill(os.getpid(), {number})\n"
    "logger = logging.getLogger('llm4dsr.llama_cpp')\n"
    "logger.setLevel(logging.DEBUG)\n"
    "logger.addHandler(Sender())\n"
)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
RECORDS = 1500
PATIENCE_S = 120
TWO_HOURS_S = 7200
OLD = b"an earlier result\n"
KEPT = "out.scores.part"


class Failure(Exception):
    """A promise that was broken."""


def promise(kept: bool, otherwise: str) -> None:
    if not kept:
        raise Failure(otherwise)


class Run:
    """A process of ours, what it says kept in a file: a pipe that nobody reads would hold it up."""

    def __init__(self, words: list[str], *, redirections: str = "", before: str = "") -> None:
        command = [sys.executable, "-c", before + HEEDED, *words]
        if redirections:
            command = ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *command]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the process has ended
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=self._said, cwd=ROOT)

    def end(self) -> tuple[int, str]:
        """Exit code, and what it said, once it has ended."""
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure("it hangs") from None
        with self._said:
            self._said.seek(0)
            return code, self._said.read()

    def kill(self) -> None:
        self.process.kill()
        self.end()


class Trials:
    """A folder with a tiny model and data, and what undisturbed runs give."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.denoiser = write_tiny_adapter(folder / "tiny.gguf", write_tiny_base(folder / "base.gguf"))
        self.source = write(folder / "in.jsonl", [{"user_id": n, "items": t} for n, t in enumerate(sequences(RECORDS))])
        with self.source.open("ab") as file:
            file.write(b"no record\n")
        self.few = write(folder / "few.jsonl", [{"items": titles} for titles in sequences(30)])
        self.results = folder / "results"
        self.use_cache("warm")
        self.cleaned, self.seconds = self.undisturbed(self.clean())
        self.scored, self.score_seconds = self.undisturbed(self.score())

    def use_cache(self, name: str) -> Path:
        os.environ["LLM4DSR_CACHE"] = str(self.folder / name)
        return self.folder / name

    def new_results(self) -> None:
        shutil.rmtree(self.results, ignore_errors=True)
        self.results.mkdir()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.results.iterdir()}

    def model(self, weights: str = "q8_0") -> list[str]:
        return ["--quiet", "--model", str(self.denoiser), "--threads", "1", "--weights", weights]

    def clean(self, source: Path | None = None, weights: str = "q8_0") -> list[str]:
        outputs = [str(self.results / "out"), "--audit", str(self.results / "audit"), "--on-error", "skip"]
        return ["clean", str(source or self.source), *outputs, "--action", "drop", *self.model(weights)]

    def score(self) -> list[str]:
        return ["score", str(self.source), str(self.results / "out"), "--on-error", "skip", *self.model()]

    def undisturbed(self, words: list[str]) -> tuple[dict[str, bytes], float]:
        for _ in range(2):  # the first one merges the model
            self.new_results()
            began = time.monotonic()
            code, said = Run(words).end()
            promise(code == 3, f"undisturbed run: {code} {said}")
        return self.files(), time.monotonic() - began

    def after(self, seconds: float) -> None:
        time.sleep(self.rng.uniform(0, seconds))

    def going_on(self, words: list[str]) -> list[str]:
        """The command, with --resume where scores were kept."""
        kept = self.results / KEPT
        return [*words, "--resume"] if kept.exists() and kept.stat().st_size else words

    def check_no_parts(self) -> None:
        left = [name for name in self.files() if name.startswith(".")]
        promise(not left, f"parts are left: {left}")

    def check_whole_or_old(self) -> None:
        for name, content in self.files().items():
            if not name.startswith(".") and not name.startswith(KEPT):
                promise(content in (OLD, self.cleaned[name]), f"{name} is neither the old file nor the whole new one")

    # One trial each; the first lines are the rows of the table.

    def kill_clean(self) -> None:
        """`clean` killed: each output is the old or the whole new one, and the next run goes on and leaves nothing"""
        self.new_results()
        (self.results / "out").write_bytes(OLD)
        run = Run(self.clean())
        self.after(self.seconds * 1.05)
        run.kill()
        self.check_whole_or_old()
        files = self.files()
        promise(files["out"] == OLD or "audit" in files, "OUT is new, and no audit tells of its edits")
        for name in files:
            then = time.time() - TWO_HOURS_S
            os.utime(self.results / name, (then, then))
        code, said = Run(self.going_on(self.clean())).end()
        promise(code == 3, f"the next run fails: {said}")
        promise(self.files() == self.cleaned, f"the next run leaves {sorted(self.files())}, or other bytes")

    def kill_score(self) -> None:
        """`score` killed up to four times and resumed: the bytes are those of an undisturbed run"""
        self.new_results()
        resume: list[str] = []
        for _ in range(self.rng.randint(1, 4)):
            run = Run([*self.score(), *resume])
            self.after(self.score_seconds)
            run.kill()
            if (self.results / "out").exists():
                break
            resume = ["--resume"] if (self.results / "out.part").exists() else []
        if not (self.results / "out").exists():
            code, said = Run([*self.score(), *resume]).end()
            promise(code == 3, f"--resume fails: {said}")
        found = {name: content for name, content in self.files().items() if not name.startswith(".")}
        promise(found == self.scored, f"it leaves {sorted(found)}, or other bytes")

    def kill_first_use(self) -> None:
        """A first use killed while it merges: no half file is used, and the next run does it all"""
        cache = self.use_cache("cold")
        shutil.rmtree(cache, ignore_errors=True)
        self.new_results()
        words = self.clean(self.few, "auto")
        run = Run(words)
        self.after(3)
        run.kill()
        made = [*cache.glob("runtime/[!.]*")]
        code, said = Run(self.going_on(words)).end()
        promise(code == 0, f"the next run fails: {said}")
        promise(not made or made == [*cache.glob("runtime/[!.]*")], "a merged model that is not used")
        first = self.files()
        promise(Run(words).end()[0] == 0 and self.files() == first, "the run after it gives other bytes")

    def first_use_at_once(self) -> None:
        """Four first uses at once: one merged model, and one output"""
        cache = self.use_cache("cold")
        shutil.rmtree(cache, ignore_errors=True)
        self.new_results()
        runs = []
        for n in range(4):
            target = str(self.results / f"out{n}")
            words = ["clean", str(self.few), target, "--action", "drop", "--annotate", *self.model("auto")]
            runs.append(Run(words))
            self.after(0.3)
        for run in runs:
            code, said = run.end()
            promise(code == 0, f"exit code {code}: {said}")
        there = sorted(path.name for path in cache.glob("runtime/*"))
        promise(len(there) == 1, f"in the cache: {there}")
        promise(len({hashlib.sha256(content).digest() for content in self.files().values()}) == 1, "different outputs")

    def signal_once(self) -> None:
        """`clean` told to end by SIGINT, SIGTERM or SIGHUP: exit code, one sentence, nothing left but kept scores"""
        self.tell(again=False)

    def signal_twice(self) -> None:
        """The same told twice within a tenth of a second"""
        self.tell(again=True)

    def tell(self, *, again: bool) -> None:
        self.new_results()
        (self.results / "out").write_bytes(OLD)
        numbers = [self.rng.choice([*CODES]) for _ in range(1 + again)]
        run = Run(self.clean())
        # Python itself takes a moment to begin, in which a signal ends it by itself.
        time.sleep(0.3)
        self.after(self.seconds)
        run.process.send_signal(numbers[0])
        if again:
            self.after(0.1)
            run.process.send_signal(numbers[1])
        code, said = run.end()
        self.check_no_parts()
        self.check_whole_or_old()
        # A run that is over, and is about to leave, is ended by the signal itself.
        expected = {3} | {code for number in numbers for code in (CODES[number], -number)}
        promise(code in expected, f"exit code {code} after {numbers}: {said}")
        promise(code != 3 or self.files() == self.cleaned, "it ends as if all were well, and is not")
        sentences = [
            line for line in said.splitlines() if not line.startswith("skipped ")
        ]  # the line that is no record
        promise(len(sentences) <= 1 or code == 3, f"it says more than a sentence: {said}")
        if code != 3:
            code, said = Run(self.going_on(self.clean())).end()
            promise(code == 3 and self.files() == self.cleaned, f"the next run ends otherwise: {said}")

    def signal_in_llama_cpp(self) -> None:
        """A signal at a random log line of llama.cpp, as model and context are made: never lost"""
        self.new_results()
        number, line = self.rng.choice([*CODES]), self.rng.randint(1, 80)
        code, said = Run(self.clean(self.few), before=AT_A_LOG_LINE.format(line=line, number=int(number))).end()
        promise(code == CODES[number], f"exit code {code} for {number.name} at line {line}: {said}")
        promise(said.count("\n") <= 1, f"it says more than a sentence: {said}")
        self.check_no_parts()

    def closed_streams(self) -> None:
        """Standard input, output and error closed or full, each by chance: exit code 0, and OUT is whole"""
        self.new_results()
        ways = [["", "<&-"], ["", ">&-", ">/dev/full"], ["", "2>&-", "2>/dev/full"]]
        redirections = " ".join(self.rng.choice(way) for way in ways).strip() or ">&-"
        code, said = Run(self.clean(self.few), redirections=redirections).end()
        promise(code == 0, f"exit code {code} with {redirections}: {said}")
        promise(len(self.files()["out"].splitlines()) == 30, f"OUT is not whole with {redirections}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=int, help="trials of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="KIND", help="by the name of its method; repeatable")
    said = parser.parse_args()
    for name in [*os.environ]:
        if name.startswith("LLM4DSR_"):
            del os.environ[name]
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), said.seed)
        kinds: list[Callable[[], None]] = [
            trials.kill_clean,
            trials.kill_score,
            trials.kill_first_use,
            trials.first_use_at_once,
            trials.signal_once,
            trials.signal_twice,
            trials.signal_in_llama_cpp,
            trials.closed_streams,
        ]
        print("| what was done, and what must hold | tried | failures |\n| --- | ---: | ---: |", flush=True)
        for kind in kinds:
            if said.only and kind.__name__ not in said.only:
                continue
            failures = []
            for n in range(said.runs):
                trials.use_cache("warm")
                try:
                    kind()
                except Failure as failure:
                    failures.append(f"trial {n}: {failure}")
            print(f"| {kind.__doc__} | {said.runs} | {len(failures)} |", flush=True)
            for failure in failures:
                print(f"{kind.__name__}, {failure}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
