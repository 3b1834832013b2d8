"""What `clean` of one record costs before and beside the record: markdown on standard output.

    python benchmarks/start.py

CPU seconds (user and system, medians of several processes, one core each), with everything cached: each row is a
process of its own, so that a row holds what the rows above it hold, too. Compiled Python files are kept in a folder
of the script's, as an installed package has them.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = '{"items": ["Alien", "Aliens", "The Very Hungry Caterpillar", "The Thing", "Predator"]}\n'
LOAD = "from llm4dsr_cli.model.denoiser import Denoiser; d = Denoiser.load(threads=1)"
ROWS = {
    "Python alone": ["-c", "pass"],
    "+ numpy": ["-c", "import numpy"],
    "+ typer, and pydantic, which it and llama_cpp import": ["-c", "import numpy, typer, pydantic"],
    "+ llama_cpp and gguf": ["-c", "import numpy, typer, pydantic, llama_cpp, gguf"],
    "+ the model loaded, and checked": ["-c", "import typer, pydantic; " + LOAD],
    "+ the record judged": ["-c", "import typer, pydantic; " + LOAD + "; list(d.score([['Alien', 'Aliens', 'Cube']]))"],
    "`llm4dsr --version`": ["-m", "llm4dsr_cli", "--version"],
    "`llm4dsr clean one.jsonl -`": ["-m", "llm4dsr_cli", "clean", "{record}", "-", "--threads", "1"],
}


def cpu_seconds(arguments: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "one.jsonl")
        record.write_text(RECORD)
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        commands = {name: [part.format(record=record) for part in row] for name, row in ROWS.items()}
        for command in commands.values():  # compiles, merges the model
            cpu_seconds(command, environment)
        # In turn, so that another program's load falls on all rows alike.
        rounds = [
            {name: cpu_seconds(row, environment) for name, row in commands.items()} for _ in range(arguments.repeat)
        ]
    print("| | CPU seconds |\n| --- | ---: |")
    for name in ROWS:
        print(f"| {name} | {statistics.median(row[name] for row in rounds):.2f} |")


if __name__ == "__main__":
    main()
