"""Writes ``docs/report.png``, a picture of the page that ``llm4dsr report`` makes of the example data.

It cleans ``examples/`` as the README does, and takes a headless Chromium: ``python docs/make_report_picture.py``
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "report.png"
CHROMIUM = "chromium"
SIZE = (1160, 900)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:

        def run(*words: str | Path) -> None:
            subprocess.run([*map(str, words)], cwd=folder, check=True)

        llm4dsr = (sys.executable, "-m", "llm4dsr_cli")
        examples, catalog = ROOT / "examples" / "sequences.jsonl", ROOT / "examples" / "catalog.jsonl"
        out = ("cleaned.jsonl", "--catalog", catalog, "--audit", "edits.jsonl", "--threads", "1")
        run(*llm4dsr, "clean", examples, *out)
        run(*llm4dsr, "report", "edits.html", "--audit", "edits.jsonl")
        options = ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE[0]},{SIZE[1]}")
        run(CHROMIUM, *options, f"--screenshot={PICTURE}", Path(folder, "edits.html").as_uri())
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
