"""``llm4dsr clean`` of several inputs: counted and judged as one file, written as several."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, call, read, write

from llm4dsr_cli.commands.destinations import destinations
from llm4dsr_cli.commands.options import OutputOptions, RejectOptions

pytestmark = pytest.mark.usefixtures("warm_environment")


@pytest.fixture
def llm4dsr(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr(COMMAND, ...)`` in this process, ``clean`` with the tiny denoiser."""

    def run(command: str, *arguments: object) -> Any:
        return call(monkeypatch, capfdbinary, command, *(engine if command == "clean" else []), *arguments)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of sequences, and one with both; as many records in a file as are scored together."""
    rng = random.Random(0)
    titles = [f"Thing {i}, The" for i in range(40)]
    records = [{"user_id": user, "items": rng.sample(titles, 5)} for user in range(128)]
    for name, some in (("a.jsonl", records[:64]), ("b.jsonl", records[64:]), ("both.jsonl", records)):
        write(tmp_path / name, some)
    return tmp_path


def test_several_files_are_cleaned_as_one(folder: Path, llm4dsr: Call) -> None:
    """Guards: a threshold and counts of a file's own, so that the clean file of two loses as much as the noisy one."""
    one = llm4dsr("clean", folder / "both.jsonl", folder / "out.jsonl")
    several = llm4dsr("clean", folder / "a.jsonl", folder / "b.jsonl", folder / "cleaned")
    assert (one.code, several.code) == (0, 0), several.err
    assert read(folder / "cleaned/a.jsonl") + read(folder / "cleaned/b.jsonl") == read(folder / "out.jsonl")
    assert read(folder / "out.jsonl") != read(folder / "both.jsonl")
    assert sorted(path.name for path in (folder / "cleaned").iterdir()) == ["a.jsonl", "b.jsonl"]


def test_each_input_has_an_audit_that_takes_its_edits_back(folder: Path, llm4dsr: Call) -> None:
    """Guards: an audit of which nobody knows which file its lines tell of."""
    done = llm4dsr(
        "clean", folder / "a.jsonl", folder / "b.jsonl", f"{folder}/cleaned/", "--audit", folder / "edits",
        "--report", folder / "told", "--on-error", "skip", "--rejects", folder / "rejects",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert sorted(path.name for path in (folder / "told").iterdir()) == ["a.jsonl.json", "b.jsonl.json"]
    assert sorted(path.name for path in (folder / "rejects").iterdir()) == ["a.jsonl.jsonl", "b.jsonl.jsonl"]
    for name in ("a.jsonl", "b.jsonl"):
        undone = llm4dsr("undo", folder / "edits" / f"{name}.jsonl", folder / "cleaned" / name, folder / f"back-{name}")
        assert undone.code == 0, undone.err
        assert (folder / f"back-{name}").read_bytes() == (folder / name).read_bytes()


def test_one_input_goes_into_a_folder(folder: Path, llm4dsr: Call) -> None:
    """Guards: ``parts/*.jsonl cleaned/`` that fails where there is one part; an audit that becomes a folder with it."""
    done = llm4dsr("clean", folder / "a.jsonl", f"{folder}/new/", "--audit", folder / "edits.jsonl")
    assert done.code == 0, done.err
    assert len(read(folder / "new/a.jsonl")) == 64
    assert (folder / "edits.jsonl").is_file()


def test_several_logs_come_back_as_logs(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards: the split of RecBole, of which only one file comes back."""
    rng = random.Random(1)
    (tmp_path / "x.item").write_text(
        "item_id:token\ttitle:token_seq\n" + "".join(f"{i}\tThing {i}\n" for i in range(30))
    )
    for part, each in (("train", 5), ("valid", 1)):
        rows = [
            f"{user}\t{item}\t{place}" for user in range(60) for place, item in enumerate(rng.sample(range(30), each))
        ]
        head = "user_id:token\titem_id:token\ttimestamp:float"
        (tmp_path / f"x.{part}.inter").write_text("\n".join([head, *rows, ""]))
    done = llm4dsr("clean", tmp_path / "x.train.inter", tmp_path / "x.valid.inter", f"{tmp_path}/out/", "--edit", "10%")
    assert done.code == 0, done.err
    train, valid = (tmp_path / f"x.{part}.inter" for part in ("train", "valid"))
    assert (tmp_path / "out/x.valid.inter").read_bytes() == valid.read_bytes()  # the last item of each is protected
    lines = (tmp_path / "out/x.train.inter").read_text().splitlines()
    assert 0 < len(train.read_text().splitlines()) - len(lines) <= 0.1 * (300 + 60)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a.jsonl", "-", "cleaned"], 2, "standard input has no name in a folder"),
        (["a.jsonl", "sub/a.jsonl", "cleaned"], 2, "2 inputs are called a.jsonl"),
        (["a.jsonl", "b.jsonl", "both.jsonl"], 1, "both.jsonl: cannot be made a folder"),
        (["a.jsonl", "b.jsonl", "."], 2, "are the same file"),
        (["a.jsonl", "b.jsonl", "-"], 2, "OUT of several inputs is a folder, not standard output"),
        (["a.jsonl", "b.jsonl", "cleaned", "--audit", "-"], 2, "--audit of several inputs is a folder"),
        (["a.jsonl"], 2, "missing argument 'OUT'"),
        (["a.jsonl", "b.csv", "cleaned"], 2, "differ in where their items or titles are"),
    ],
)
def test_what_cannot_be_several_is_one_sentence(
    folder: Path, llm4dsr: Call, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    """Guards: one output over another; an input that is lost."""
    monkeypatch.chdir(folder)
    (folder / "sub").mkdir()
    (folder / "sub/a.jsonl").write_bytes((folder / "a.jsonl").read_bytes())
    (folder / "b.csv").write_text("user,item,title\n1,2,Three\n")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = llm4dsr("clean", *arguments, "--quiet")
    assert done.code == code and words in done.err, done.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (folder / "-").exists()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("x.train.inter", "x.valid.inter"),
        ("train.jsonl", "test.jsonl"),
        ("ml/Train_1.csv", "ml/Valid_1.csv"),
        ("part-0001.jsonl", "part-0002.jsonl"),
    ],
)
def test_another_part_of_a_split_is_not_written_over(
    tmp_path: Path, llm4dsr: Call, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    """Guards: two inputs without a folder behind them, of which the second one was lost."""
    monkeypatch.chdir(tmp_path)
    for name in (source, target):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"mine")
    done = llm4dsr("clean", source, target, "--quiet")
    assert done.code == 2 and "name a folder behind them" in done.err, done.err
    assert Path(target).read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("source", "target"),
    [("train.jsonl", "train2.jsonl"), ("x.train.inter", "x.clean.inter"), ("in/train.csv", "out/test.csv")],
)
def test_an_output_of_another_name_is_written_over(tmp_path: Path, source: str, target: str) -> None:
    """Guards: a second run that is refused because of what the first one wrote."""
    for name in (source, target):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    paths = [str(tmp_path / source), str(tmp_path / target)]
    (one,) = destinations(paths, OutputOptions(), RejectOptions(), dry_run=False)
    assert one.target == paths[1]


def test_an_interrupted_run_of_several_goes_on(folder: Path, llm4dsr: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: scores of the first file that are lost when the second one is interrupted."""
    from llm4dsr_cli.cleaning import scoring

    scored = scoring.score_records
    calls = []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scored(*arguments, **named)

    monkeypatch.setattr(scoring, "score_records", interrupted)
    arguments = ["clean", folder / "a.jsonl", folder / "b.jsonl", folder / "cleaned"]
    stopped = llm4dsr(*arguments)
    assert stopped.code == 130, stopped.err
    assert f"64 scored records are kept in {folder}/cleaned/a.jsonl.scores.part, go on with --resume" in stopped.err
    monkeypatch.undo()
    assert llm4dsr(*arguments, "--resume").code == 0
    assert llm4dsr("clean", folder / "both.jsonl", folder / "out.jsonl").code == 0
    assert read(folder / "cleaned/a.jsonl") + read(folder / "cleaned/b.jsonl") == read(folder / "out.jsonl")


def test_a_dry_run_of_several_keeps_scores_for_the_run_that_writes(folder: Path, llm4dsr: Call) -> None:
    """Guards: a folder that is not there yet, in which scores are to be kept, and scores that nobody is told of."""
    arguments = ["clean", folder / "a.jsonl", folder / "b.jsonl", folder / "cleaned"]
    looked = llm4dsr(*arguments, "--dry-run", "--audit", folder / "edits")
    assert looked.code == 0, looked.err
    for name in ("a", "b"):
        part = folder / "cleaned" / f"{name}.jsonl.scores.part"
        assert f"the scores are kept in {part}: clean with --resume to use them" in looked.err
    assert {path.name for path in (folder / "cleaned").iterdir()} >= {"a.jsonl.scores.part", "b.jsonl.scores.part"}
    assert not (folder / "edits").exists()
    assert llm4dsr(*arguments, "--resume").code == 0
    assert sorted(path.name for path in (folder / "cleaned").iterdir()) == ["a.jsonl", "b.jsonl"]
