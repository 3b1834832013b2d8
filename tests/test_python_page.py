"""The page about Python: what it shows runs, and gives what it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import REAL_CACHE

pytest.importorskip("pandas")
pytest.importorskip("polars")

ROOT = Path(__file__).resolve().parents[1]


def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: a page that shows names or arguments that are not there, or results that do not come."""
    for name in ("catalog.jsonl", "sequences.jsonl"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM4DSR_CACHE", str(REAL_CACHE))
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 8
    names: dict[str, Any] = {}
    for block in blocks:
        line = page[: block.start(1)].count("\n")
        code = compile("\n" * line + block[1], str(ROOT / "docs" / "python.md"), "exec")
        exec(code, names)  # in one namespace: a block goes on where the one before it stopped
