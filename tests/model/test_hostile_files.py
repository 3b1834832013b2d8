"""Damaged and hostile files by the thousand, run as commands: refused in one sentence, or they work."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_files import KINDS, campaign, originals

# 2,000 together, in less than a minute of CPU time; benchmarks/reliability_files.py tries more.
FILES = {"adapter": 450, "merged": 450, "base": 400, "gate": 300, "wheel": 300, "cache": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile")
    originals(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_file_brings_the_process_down(folder: Path, kind: str) -> None:
    """Guards aborts in llama.cpp, reads without end, tracebacks, NaN taken for scores, messages that are none, and
    damage that is noticed nowhere."""
    table = campaign(kind, FILES[kind], 11, folder)
    assert table.failures == []
    assert table.tried == FILES[kind]
    if kind == "cache":  # what is damaged is made again
        assert table.counts["worked"] == table.tried
    else:  # neither all of them, nor none: the files are damaged, and not all damage matters
        assert table.counts["refused"] > table.tried / 2
        assert table.counts["worked"] > table.tried / 20
