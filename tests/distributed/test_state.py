"""The state of a run on Ray: what an earlier run leaves to a later one, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm4dsr_cli.distributed.folder import Folder
from llm4dsr_cli.distributed.state import EDITABLE, SCORES, RunState
from llm4dsr_cli.errors import OptionError

WHAT = {"`model`": "m", "the shards": {"a.jsonl": 3}}


def state(path: Path, edit: str, model: str = "m") -> RunState:
    return RunState(Folder(str(path)), {**WHAT, "`model`": model}, {"options of the gate": edit})


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def test_scores_outlive_another_choice_of_edits_and_shards_do_not(tmp_path: Path) -> None:
    """Guards: a dry run whose scores nobody may use; shards of two shares in one folder."""
    assert not state(tmp_path, "5%").begin()
    scores, editable = made(tmp_path / SCORES / "a.jsonl"), made(tmp_path / EDITABLE / "a.jsonl")
    assert not state(tmp_path, "2%").begin()
    assert (scores.exists(), editable.exists()) == (True, False)
    assert not state(tmp_path, "2%").begin()
    with pytest.raises(OptionError, match=r"another choice of `model`.*or delete it"):
        state(tmp_path, "2%", "other").begin()
    shard = made(tmp_path / "a.jsonl")
    assert not state(tmp_path, "2%").begin()
    with pytest.raises(OptionError, match=r"options of the gate.*delete the shards in it, but not _llm4dsr"):
        state(tmp_path, "5%").begin()
    shard.unlink()  # as it says
    assert not state(tmp_path, "5%").begin()
    assert scores.exists()


def test_a_run_that_has_finished_is_no_other_one(tmp_path: Path) -> None:
    """Guards: scores that are gone and taken for kept ones."""
    first = state(tmp_path, "5%")
    assert not first.begin()
    made(tmp_path / "a.jsonl")
    first.finish()
    assert state(tmp_path, "5%").begin()
    with pytest.raises(OptionError, match="or delete it"):
        state(tmp_path, "2%").begin()
