"""Folders: files appear whole or not at all, on a disk and where files can only be copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm4dsr_cli.distributed.folder import Folder
from llm4dsr_cli.errors import Llm4dsrError, OptionError, OutputError


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """One that is worked in, and one whose files are copied, as those of an object store are, by pyarrow."""
    found = Folder(str(tmp_path / "f") if request.param == "disk" else f"file://{tmp_path}/f")
    found.is_local = request.param == "disk"
    return found


def write(folder: Folder, name: str, data: bytes) -> None:
    with folder.writing(name) as path:
        path.write_bytes(data)


def test_what_is_written_is_read(folder: Folder, tmp_path: Path) -> None:
    """Guards: a name without its folders, a file that another one's leftovers replace, and hidden files as shards."""
    assert folder.sizes() == {}
    for name, data in (("b.jsonl", b"two"), ("day=1/a.jsonl.gz", b"one"), ("_own/x", b"x"), ("b.jsonl", b"again")):
        write(folder, name, data)
    assert folder.sizes() == {"b.jsonl": 5, "day=1/a.jsonl.gz": 3}
    assert folder.within("_own").sizes() == {"x": 1}
    with folder.reading("day=1/a.jsonl.gz") as path:
        assert path.read_bytes() == b"one"
        assert path.name == "a.jsonl.gz"
    assert folder.has("b.jsonl") and not folder.has("day=1") and not folder.has("c")
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["_own", "b.jsonl", "day=1"]
    folder.remove("_own")
    folder.remove("never")
    assert not (tmp_path / "f/_own").exists()


def test_a_block_that_fails_changes_nothing(folder: Folder, tmp_path: Path) -> None:
    """Guards: half a shard, and a shard that is gone because its successor failed."""
    write(folder, "a", b"whole")
    with pytest.raises(ZeroDivisionError), folder.writing("a") as path:
        path.write_bytes(b"ha")
        raise ZeroDivisionError
    with folder.writing("b"):
        pass
    assert (tmp_path / "f/a").read_bytes() == b"whole"
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["a"]


def test_what_the_dead_left_is_swept_up(folder: Folder, tmp_path: Path) -> None:
    """Guards: parts of killed workers that are read as shards, or stay for ever; shards that are swept up, too."""
    write(folder, "day=1/a", b"whole")
    (tmp_path / "f/day=1/.part-1").mkdir()
    (tmp_path / "f/day=1/.part-1/b").touch()
    (tmp_path / "f/.part-2-c").touch()
    assert folder.sizes() == {"day=1/a": 5}
    folder.sweep()
    assert sorted(path.name for path in (tmp_path / "f").rglob("*")) == ["a", "day=1"]


def test_what_cannot_be_is_told_in_one_sentence(folder: Folder, tmp_path: Path) -> None:
    """Guards: errors of pyarrow, which name neither the file nor what to do."""
    (tmp_path / "f").touch()
    with pytest.raises(OutputError, match="f/a"):
        write(folder, "a", b"")
    with pytest.raises(OptionError, match="nosuch://x"):
        Folder("nosuch://x")
    with pytest.raises(Llm4dsrError, match="f/gone"), folder.reading("gone") as path:
        path.read_bytes()
