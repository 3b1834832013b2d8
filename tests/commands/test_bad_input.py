"""``llm4dsr clean`` and input, options or models that are wrong or unusual."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import Call, Outcome, files, preceded_by, read, read_edits, run, write
from conftest import write_tiny_adapter, write_tiny_base

pty = pytest.importorskip("pty", reason="pipes and terminals of POSIX")

pytestmark = pytest.mark.usefixtures("warm_environment")


GOOD = [b'{"items": ["Alien"], "n": 0}', b'{"items": [{"title": "Heat"}]}', b'{"n": 1, "items": []}']
BAD = [
    b"not json",
    b'{"items": ["caf\xe9"]}',
    b"[1, 2]",
    b'{"products": ["Alien"]}',
    b'{"items": [1, 2]}',
    b'{"items": ["Alien", {"title": "Heat"}]}',
    b'{"items": "Alien"}',
    b'{"items": ["Alien"]',
    b'{"items": [true]}',
    b'{"items": ["\\ud800"]}',
    b" null ",
]


def test_skipping_goes_on_and_keeps_the_rejects(tmp_path: Path, clean: Call) -> None:
    """Guards: a bad line that stops a night's run, or one that is lost, altered or not told of."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [line for i, bad in enumerate(BAD) for line in (bad, GOOD[i % 3])]
    source.write_bytes(b"\n".join(lines) + b"\n")
    outcome = clean(source, target, "--on-error", "skip", "--threshold", 1)
    assert (outcome.code, outcome.out) == (3, b"")
    assert target.read_bytes().splitlines() == lines[1::2]
    rejects = tmp_path / "out.jsonl.rejects.jsonl"
    assert rejects.read_bytes() == b"\n".join(BAD) + b"\n"
    told = [line for line in outcome.err.splitlines() if line.startswith("skipped ")]
    assert len(told) == 11  # ten of them, and the sum
    assert told[0].startswith(f"skipped {source}:1: not JSON") and told[1].startswith(f"skipped {source}:3: not UTF-8")
    assert told[-1] == f"skipped 11 lines that are no records; they are in {rejects}"


def test_skipping_nothing_is_success_and_leaves_no_rejects_of_an_earlier_run(tmp_path: Path, clean: Call) -> None:
    """Guards: exit code 3 when all went well, or yesterday's rejects that pass for today's."""
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join(GOOD))
    (tmp_path / "out.jsonl.rejects.jsonl").write_bytes(b"of an earlier run\n")
    assert clean(source, tmp_path / "out.jsonl", "--on-error", "skip").code == 0
    assert (tmp_path / "out.jsonl.rejects.jsonl").read_bytes() == b""


def test_a_record_that_has_the_added_field_already_is_skipped_too(tmp_path: Path, clean_quietly: Call) -> None:
    """Guards: ``--on-error skip`` that stops after all, at a line that cannot be annotated."""
    bad, good = b'{"items": ["Alien"], "noise_flag": [0]}', b'{"items": ["Heat", "Up"]}'
    source, target, rejects = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "rejects"
    source.write_bytes(good + b"\n" + bad + b"\n" + good + b"\n")
    options = ["--action", "mark", "--threshold", 0, "--audit", tmp_path / "audit.jsonl"]
    clean_quietly(source, target, *options).failed(1, f"{source}:2: ", '"noise_flag" already')
    assert set(files(tmp_path)) == {"in.jsonl"}
    assert clean_quietly(source, target, *options, "--on-error", "skip", "--rejects", rejects).code == 3
    assert rejects.read_bytes() == bad + b"\n"
    assert [record["noise_flag"] for record in read(target)] == [[1, 0]] * 2
    edits = read_edits(tmp_path / "audit.jsonl")
    assert [(edit["record"], edit["output_line"]) for edit in edits] == [(f"{source}:1", 1), (f"{source}:3", 2)]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("bad", BAD)
def test_by_default_a_bad_line_stops_the_run_and_changes_nothing(
    tmp_path: Path, clean_quietly: Call, bad: bytes, exists: bool
) -> None:
    """Guards: a result that is short of records without a word, or an error that does not say where."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join([GOOD[0], b"", bad, GOOD[1]]))
    if exists:
        target.write_bytes(b"before")
    before = files(tmp_path)
    clean_quietly(source, target, "--audit", tmp_path / "a", "--report", tmp_path / "r").failed(1, f" {source}:3: ")
    assert files(tmp_path) == before


def test_inputs_with_nothing_to_do_come_out_as_they_are(tmp_path: Path, clean: Call) -> None:
    """Guards: an error, or a division by zero, for no records, no items, or one item, which is always kept."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    everything = ["--threshold", 0, "--protect-last", 0]
    for content in (b"", b"\n\n", b'{"items": []}\n', b'{"items": ["Alien"]}\n{"items": []}\n'):
        source.write_bytes(content)
        outcome = clean(source, target, *everything, "--report", tmp_path / "report.json")
        assert outcome.code == 0
        assert target.read_bytes() == content.lstrip()
    source.write_bytes(b'{"items": ["Alien", "Heat", "Up"]}\n')
    assert clean(source, target, *everything).code == 0
    assert len(read(target)[0]["items"]) == 1


def test_titles_of_strangers_are_only_text(tmp_path: Path, clean: Call) -> None:
    """Guards: control tokens read out of titles, line breaks that shift all later probes, and long titles or lines."""
    tricky = [
        "Alien<|im_end|>",
        "<|endoftext|>",
        "one\nof\r\nmany\u2028lines\x00\x1b[31m",
        "x" * 5000,
        "\u200b\u200d",
        "A " * 2_500_000,
        "🎬" * 40,
    ]
    plain = [json.dumps({"items": [title, "Heat", title]}).encode() for title in tricky]
    heavy = json.dumps({"blob": "y" * 10_000_000, "items": ["Alien", "Heat"]}).encode()
    many = json.dumps({"items": [f"title {n}" for n in range(3000)]}).encode()
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join([*plain, heavy, many, b""]))
    assert clean(source, target, "--threshold", 1).code == 0
    assert target.read_bytes() == source.read_bytes()
    assert clean(source, target, "--annotate", "--action", "mark", "--threshold", 1).code == 0
    for before, after in zip(read(source), read(target), strict=True):
        chances = after["noise_probability"]
        assert len(chances) == len(before["items"])
        blank = [title == "\u200b\u200d" for title in before["items"]]
        assert all(chance is None if none else 0 <= chance <= 1 for chance, none in zip(chances, blank, strict=True))


def test_file_names_need_not_be_unicode(tmp_path: Path, clean: Call) -> None:
    """Guards: a traceback when the audit is to name such a file."""
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    try:
        source.write_bytes(b'{"items": ["Alien", "Heat"]}\n')
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert clean(source, tmp_path / "out.jsonl", "--threshold", 0, "--audit", tmp_path / "audit").code == 0
    assert read_edits(tmp_path / "audit")[0]["record"].endswith("/caf?.jsonl:1")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [{"items": ["Alien", "Heat", "Up"]}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", 0.9, "--false-edit-rate", 0.01], ["--threshold", "--false-edit-rate"]),
        (["--action", "foo"], ["--action is foo", "drop", "mark", "replace"]),
        (["--proposer", "counts"], ["--proposer", "--action replace"]),
        (["--fallback", "keep", "--action", "mark"], ["--fallback", "--action replace"]),
        (["--action", "replace", "--proposer", "foo"], ["--proposer is foo", "counts", "generate"]),
        (["--action", "replace", "--fallback", "mark"], ["--fallback is mark", "drop", "keep"]),
        (["--on-error", "foo"], ["--on-error foo", "skip"]),
        (["--weights", "foo"], ["--weights is foo", "q8_0"]),
        (["--threads", 0], ["--threads is 0"]),
        (["--threads", -1], ["--threads is -1"]),
        (["--threshold", 1.5], ["--threshold is 1.5"]),
        (["--threshold", "nan"], ["--threshold is nan"]),
        (["--false-edit-rate", 0], ["--false-edit-rate is 0"]),
        (["--false-edit-rate", 1], ["--false-edit-rate is 1"]),
        (["--max-edits", -1], ["--max-edits is -1"]),
        (["--max-edits", 1.5], ["--max-edits is 1.5"]),
        (["--max-edits", "inf"], ["--max-edits is inf"]),
        (["--protect-last", -1], ["--protect-last is -1"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, source: Path, clean_quietly: Call, options: list[object], words: list[str]
) -> None:
    """Guards: a slip of the keyboard that is taken for something else, or answered with a traceback."""
    clean_quietly(source, tmp_path / "out.jsonl", *options).failed(2, *words)
    assert set(files(tmp_path)) == {"in.jsonl"}


@pytest.mark.parametrize("arguments", [[], ["only-one"], ["a", "b", "--no-such"], ["a", "b", "--threshold", "many"]])
def test_usage_errors_are_not_failures(arguments: list[str], clean: Call) -> None:
    """Guards: exit code 1, or a traceback, for a command that was mistyped."""
    clean(*arguments).failed(2, "llm4dsr clean --help")


def test_paths_that_cannot_work_are_refused_before_anything_is_written(
    tmp_path: Path, source: Path, clean_quietly: Call, tiny_denoiser: Path
) -> None:
    """Guards: an input or a model that is overwritten, and hours of work for an output that cannot be written."""
    target, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    catalog = write(tmp_path / "catalog.jsonl", [{"id": 1, "title": "Alien"}])
    link.symlink_to(source)
    before, model = files(tmp_path), tiny_denoiser.read_bytes()
    clean_quietly(source, source).failed(2, "IN and OUT", str(source))
    clean_quietly(source, link).failed(2, "IN and OUT")
    clean_quietly(source, catalog, "--catalog", catalog).failed(2, "--catalog and OUT")
    clean_quietly(source, tiny_denoiser).failed(2, "--model and OUT")
    clean_quietly(source, target, "--audit", target).failed(2, "OUT and --audit")
    clean_quietly(source, "-", "--audit", "-").failed(2, "OUT and --audit", "standard output")
    clean_quietly(source, target, "--report", source).failed(2, "IN and --report")
    clean_quietly(source, "-", "--on-error", "skip").failed(2, "--rejects")
    clean_quietly(source, target, "--rejects", tmp_path / "rejects").failed(2, "--rejects", "--on-error skip")
    clean_quietly(tmp_path / "missing.jsonl", target).failed(1, "missing.jsonl: no such file")
    clean_quietly(tmp_path, target).failed(1, "is a folder")
    clean_quietly(source, target, "--catalog", tmp_path / "missing.csv").failed(1, "missing.csv: no such file")
    clean_quietly(source, tmp_path / "missing" / "out.jsonl").failed(1, "folder is missing", "mkdir -p")
    clean_quietly(source, target, "--audit", tmp_path / "missing" / "audit").failed(1, "folder is missing")
    clean_quietly(source, tmp_path).failed(2, "IN and OUT")  # which would be the file of its name in there
    clean_quietly(source, tmp_path / "missing.jsonl", tmp_path / "new").failed(1, "missing.jsonl: no such file")
    assert files(tmp_path) == before
    assert tiny_denoiser.read_bytes() == model


def test_a_terminal_is_not_waited_for(engine: list[str]) -> None:
    """Guards: a command that seems to hang because it waits for somebody to type JSON."""
    ours, theirs = pty.openpty()
    try:
        run("clean", "-", "-", *engine, stdin=theirs).failed(2, "standard input is a terminal")
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_the_catalog_lacks_is_told_with_its_place(tmp_path: Path, clean_quietly: Call) -> None:
    """Guards: an id taken for a title, and a catalog that contradicts itself and is believed without a word."""
    source, target, catalog = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "catalog.jsonl"
    write(source, [{"items": [1, 2]}])
    clean_quietly(source, target).failed(1, f"{source}:1: ", "--catalog")
    assert not target.exists()
    rows = [{"id": 1, "title": "Alien"}, {"id": 2, "title": "Heat"}, {"id": "1", "title": "Aliens"}]
    write(catalog, [*rows, {"id": 2, "title": "Up"}])
    outcome = clean_quietly(source, target, "--catalog", catalog, "--threshold", 1)
    assert (outcome.code, target.read_bytes()) == (0, source.read_bytes())
    told = f'{catalog}:3: id "1" has two titles, "Alien" and "Aliens", and 1 more are like it: the first of them counts'
    assert outcome.err == told + "\n"


def test_fields_that_do_not_fit_are_told(tmp_path: Path, clean_quietly: Call) -> None:
    """Guards: lists cut to the shorter one, or a field name that is wrong and ignored."""
    source = write(tmp_path / "in.jsonl", [{"ids": ["Alien", "Heat"], "ratings": [1]}])
    target = tmp_path / "out.jsonl"
    clean_quietly(source, target).failed(1, '"items" is missing', "--items-field")
    options = ["--items-field", "ids"]
    clean_quietly(source, target, *options, "--parallel-field", "ratings").failed(1, "1 entries", "2")
    clean_quietly(source, target, *options, "--parallel-field", "stars").failed(1, '"stars" is missing')
    clean_quietly(source, target, *options, "--titles-field", "ratings").failed(1, '"ratings" has 1 entries')
    assert clean_quietly(source, target, *options).code == 0


def test_models_that_do_not_fit_are_refused(tmp_path: Path, source: Path, tiny_base: Path, clean_quietly: Call) -> None:
    """Guards: an adapter merged into weights it was not made for, and files that are no denoisers."""
    target = tmp_path / "out.jsonl"
    other, lost = tmp_path / "other.gguf", tmp_path / "lost.gguf"
    write_tiny_base(other, seed=9)
    write_tiny_adapter(lost, other)
    clean_quietly(source, target, "--base", other).failed(1, "another base model")
    clean_quietly(source, target, "--base", tmp_path / "missing.gguf").failed(1, "missing.gguf")
    clean_quietly(source, target, "--base", "no-such-base").failed(1, "no-such-base")
    clean_quietly(source, target, "--base", source).failed(1, "not a GGUF")
    other.unlink()
    assert not target.exists()

    clean_quietly(source, target, "--model", lost).failed(1, str(lost), "other.gguf", "give its file")


def test_a_model_can_be_wrong_in_many_ways(
    tmp_path: Path, source: Path, tiny_base: Path, tiny_denoiser: Path, clean_quietly: Call
) -> None:
    """Guards: numpy's or llama.cpp's words, or a traceback, for a download that broke off or a wrong file."""
    target, model = tmp_path / "out.jsonl", tmp_path / "model.gguf"

    def clean(*options: object) -> Outcome:
        return clean_quietly(source, target, "--model", *options)

    clean(tiny_base).failed(1, str(tiny_base), "no denoiser", "llm4dsr finetune")
    clean("no-such-model").failed(1, "no-such-model")
    clean(tmp_path / "missing.gguf").failed(1, "missing.gguf", "no such model file")
    clean(source).failed(1, str(source))
    clean(tmp_path).failed(1)
    whole = tiny_denoiser.read_bytes()
    for size in [0, 3, 4, 8, 20, *range(24, 9000, 311), len(whole) // 2, len(whole) - 1]:
        model.write_bytes(whole[:size])
        clean(model).failed(1, str(model))
    base = tmp_path / "base.gguf"
    base.write_bytes(tiny_base.read_bytes()[:-1000])
    clean(tiny_denoiser, "--base", base).failed(1, str(base))
    base.write_bytes(b"")
    clean(tiny_denoiser, "--base", base).failed(1, str(base))
    write_tiny_adapter(model, tiny_base, calibrated=False)
    clean(model, "--false-edit-rate", 0.01).failed(1, "no calibration: give ")
    write_tiny_adapter(model, tiny_base, seed=2)
    model.write_bytes(model.read_bytes().replace(str(tiny_base).encode(), b"x" * len(str(tiny_base))))
    clean(model).failed(1, "xxx")
    assert not target.exists()


def test_a_damaged_merged_model_is_made_again(
    tmp_path: Path,
    source: Path,
    tiny_denoiser: Path,
    clean: Call,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards: llama.cpp's log, a crash, or an error in every run for a file in the cache that was cut short."""
    monkeypatch.setenv("LLM4DSR_CACHE", str(own_cache))
    assert clean(source, tmp_path / "out.jsonl").code == 0
    (merged,) = (own_cache / "runtime").iterdir()
    before, cleaned = merged.read_bytes(), (tmp_path / "out.jsonl").read_bytes()
    merged.write_bytes(before[:-3000])
    done = clean(source, tmp_path / "out.jsonl")
    assert (done.code, done.err.count(f"{merged} is damaged: it is made again\n")) == (0, 1)
    assert merged.read_bytes() == before
    assert (tmp_path / "out.jsonl").read_bytes() == cleaned


def test_offline_means_no_network(
    tmp_path: Path, source: Path, clean_quietly: Call, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: a download that was forbidden."""
    monkeypatch.setenv("LLM4DSR_CACHE", str(own_cache))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    target = tmp_path / "out.jsonl"
    for reference in ("smollm2-135m-instruct", "hf:org/repo/file.gguf"):
        clean_quietly(source, target, "--base", reference, "--offline").failed(1, reference, "not on this machine")
        with monkeypatch.context() as context:
            context.setenv("LLM4DSR_OFFLINE", "1")
            clean_quietly(source, target, "--base", reference).failed(1, reference, "not on this machine")
    assert not target.exists()


needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@needs_full_device
def test_a_full_disk_is_one_sentence(source: Path, tmp_path: Path, clean_quietly: Call, engine: list[str]) -> None:
    """Guards: success that was none, and complaints of Python at its end."""
    clean_quietly(source, "/dev/full").failed(1, "/dev/full: no space left", "free some space")
    clean_quietly(source, tmp_path / "out", "--audit", "/dev/full", "--threshold", 0).failed(1, "/dev/full: no space")
    assert set(files(tmp_path)) == {"in.jsonl"}
    with Path("/dev/full").open("wb") as full:
        run("clean", source, "-", "--action", "drop", "--quiet", *engine, stdout=full).failed(
            1, "stdout: no space left"
        )


def test_a_cache_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, source: Path, engine: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: half a merged model that the next run would take for a whole one."""
    monkeypatch.setenv("LLM4DSR_CACHE", str(own_cache))
    small = preceded_by("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))")
    arguments = ["clean", source, tmp_path / "out.jsonl", "--action", "drop", "--quiet", *engine]
    run(*arguments, program=small).failed(1, str(own_cache), "free some space")
    run(*arguments, "--weights", "auto", program=small).failed(1, str(own_cache), "free some space")
    assert [*(own_cache / "runtime").iterdir()] == []
    monkeypatch.setenv("LLM4DSR_CACHE", str(source))
    run(*arguments).failed(1, str(source), "LLM4DSR_CACHE")
    assert set(files(tmp_path)) == {"in.jsonl"}
