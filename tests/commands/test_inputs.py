"""What commands find out about an input before they read it."""

from __future__ import annotations

import gzip
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import write

from llm4dsr_cli.commands.inputs import may_hold_objects


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"items": [1, 2]}, False),
        ({"items": ["a"], "note": ["x"]}, False),
        ({"items": [{"id": 1}]}, True),
        ({"items": [1], "user": {"id": 1}}, True),
    ],
)
def test_objects_are_seen_wherever_they_stand(tmp_path: Path, last: dict[str, Any], expected: bool) -> None:
    """Guards: a catalog's descriptions kept for bare ids, and a file whose last record needs them and has none."""
    source = write(tmp_path / "in.jsonl", [*({"items": [n]} for n in range(3000)), last])
    assert may_hold_objects(str(source)) is expected
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    assert may_hold_objects(str(packed)) is expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs of POSIX")
def test_a_pipe_is_left_for_the_run(tmp_path: Path) -> None:
    """Guards: lines of a pipe that are read, and lost, to find out about it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(json.dumps({"items": [1]}).encode()))
    writer.start()
    assert may_hold_objects(str(pipe)) is True
    assert b"items" in pipe.read_bytes()
    writer.join()
