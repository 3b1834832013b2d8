"""Memory that training has freed: the system gets it back."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from llm4dsr_cli.finetune import trainer
from llm4dsr_cli.finetune.settings import Schedule

# Small blocks that live on stand between large ones that are freed, as weights do between batches.
HOLES = """
from pathlib import Path
from llm4dsr_cli.finetune.memory import give_back
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
pairs = [(bytes([i % 256]) * 100_000, bytes([i % 256]) * 2_000) for i in range(2_000)]
small = [pair[1] for pair in pairs]
del pairs
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc keeps freed memory")
def test_freed_memory_goes_back_to_the_system() -> None:
    """Guards: 1 GB more for each ten minutes of training, until a laptop has no more."""
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000_000


def test_training_gives_memory_back_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: a release that nobody calls any more."""
    given: list[int] = []
    monkeypatch.setattr(trainer, "give_back", lambda: given.append(1))
    monkeypatch.setattr(trainer.Batch, "by_length", lambda examples, size: iter([(0, one) for one in examples]))
    task = SimpleNamespace(parts=1, stream=0, example=lambda number: number)
    settings = Schedule(windows=16, batch_windows=2)
    one = SimpleNamespace(settings=settings, task=task, _pool=[], _pool_number=-1)
    for step in range(3 * trainer.POOL_STEPS):
        trainer.Trainer._batches(one, step)  # type: ignore[arg-type]
    assert len(given) == 3
