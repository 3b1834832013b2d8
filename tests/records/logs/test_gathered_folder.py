"""The folder of gathered records: there as long as somebody needs it."""

from __future__ import annotations

import gc
import tempfile
import warnings
from pathlib import Path

import pytest

from llm4dsr_cli import OptionError
from llm4dsr_cli.records.logs.gathered import gather
from llm4dsr_cli.records.logs.log import LogOptions


def test_it_goes_with_the_records_and_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: a ResourceWarning in each run, folders of runs long gone, records gone before they are read."""
    folders = tmp_path / "temporary"
    folders.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    log, lines, ids = tmp_path / "in.csv", tmp_path / "in.jsonl", tmp_path / "ids.csv"
    log.write_text("user_id,item_id,title\n1,2,A\n")
    ids.write_text("user_id,item_id\n1,2\n")
    lines.write_text('{"items": ["A"]}\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gather(str(log), LogOptions(), user_field="user_id")
        assert found is not None
        gc.collect()
        assert Path(found).read_text() == '{"user_id":"1","items":["2"],"titles":["A"],"rows":[0]}\n'
        assert gather(str(lines), LogOptions(), user_field="user_id") is None
        with pytest.raises(OptionError, match="no titles"):
            gather(str(ids), LogOptions(), user_field="user_id")
        assert len([*folders.iterdir()]) == 1
        del found
        gc.collect()
    assert not [*folders.iterdir()]
