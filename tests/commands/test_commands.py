"""What all commands share, the commands about models, and what ``from llm4dsr_cli import ...`` offers."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import typer.main
from command_line import COMMAND, PATIENCE, Call, call, clean_environment, files, preceded_by, run

import llm4dsr_cli
from llm4dsr_cli.commands import app
from llm4dsr_cli.commands.command import Command, Group
from llm4dsr_cli.model.registry import Registry

HEAVY = {"numpy", "llama_cpp", "torch", "gguf", "orjson"}


@pytest.fixture(autouse=True)
def environment(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def llm4dsr(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr("models", "list")`` in this process."""
    return lambda *arguments: call(monkeypatch, capfdbinary, *arguments)


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and click command of every command, groups included."""
    command = typer.main.get_command(app) if command is None else command
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


GROUPS = [path for path, command in commands() if hasattr(command, "commands")]
LEAVES = [path for path, command in commands() if not hasattr(command, "commands")]
LINES = [*GROUPS, *LEAVES]


# --- completion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("clean a b --action re", ["replace"]),
        ("clean a b --on-error ", ["fail", "skip"]),
        ("clean a b --weights q", ["q8_0", "q4_0"]),
        ("clean a b --model ", ["llm4dsr-smollm2-135m"]),
        ("finetune a --base smol", ["smollm2-135m-instruct"]),
        ("models show llm", ["llm4dsr-smollm2-135m"]),
        ("clean a b --catalog ", []),  # so that the shell offers files
        ("mod", ["models"]),
    ],
)
def test_a_shell_offers_what_may_stand_there(words: str, offered: list[str]) -> None:
    """Guards: completion that is turned off, or offers the files of the folder for one of three words."""
    variable = {
        "_LLM4DSR_COMPLETE": "complete_bash",
        "COMP_WORDS": f"llm4dsr {words}",
        "COMP_CWORD": str(len(f"{words}x".split())),
    }
    named = preceded_by("import sys; sys.argv[0] = 'llm4dsr'")
    outcome = run(program=named, env={**os.environ, **variable})
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.decode().split() == offered


def test_completion_can_be_installed(llm4dsr: Call) -> None:
    """Guards: a help that does not say how."""
    assert b"--install-completion" in llm4dsr("--help").out


# --- help ------------------------------------------------------------------------------------------------------------


def test_all_commands_are_walked() -> None:
    """Guards: the tests below passing because they look at nothing."""
    assert {(), ("models",)} == set(GROUPS)
    assert {("clean",), ("score",), ("apply",), ("finetune",), ("models", "list"), ("models", "show")} <= set(LEAVES)


@pytest.mark.parametrize("path", LINES, ids=" ".join)
def test_every_command_and_option_explains_itself(path: tuple[str, ...], llm4dsr: Call) -> None:
    """Guards: an option without help, help without an example, and -h that is not known."""
    command = dict(commands())[path]
    outcome = llm4dsr(*path, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert llm4dsr(*path, "-h") == outcome
    text = " ".join(outcome.out.decode().split())
    summary = command.help.splitlines()[0]
    assert summary.endswith(".") and summary in text
    if path in LEAVES:
        assert f"Example: llm4dsr {' '.join(path)} " in f"{text} "
    for parameter in command.params:
        described = getattr(parameter, "help", None)
        assert described, parameter.name
        assert described.endswith((".", "]")), described
        assert " ".join(described.split()) in text


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_examples_can_be_typed(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: an example with an option that was renamed, or without an argument that is required."""
    command = dict(commands())[path]
    (example,) = re.findall(r"Example: llm4dsr (.+)", command.help)
    words = shlex.split(example)
    assert tuple(words[: len(path)]) == path
    context = command.make_context("llm4dsr", words[len(path) :])
    assert context.command is command


@pytest.mark.parametrize("path", GROUPS, ids=["llm4dsr", "models"])
def test_a_group_alone_shows_its_help(path: tuple[str, ...], llm4dsr: Call) -> None:
    """Guards: silence, or a traceback, for people who try the bare command first."""
    outcome = llm4dsr(*path)
    assert outcome.code in (0, 2)
    shown = outcome.out.decode() + outcome.err
    for inner in dict(commands())[path].commands:
        assert re.search(rf"^  {inner}\b", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-command"], ["no such command 'no-such-command'", "see ", "--help"]),
        (["clen"], ["no such command 'clen'", "did you mean 'clean'?"]),
        (["--no-such-option"], ["no such option: --no-such-option", "see ", " --help"]),
        (["models", "no-such-command"], ["no such command 'no-such-command'", "models --help"]),
        (["clean"], ["missing argument 'IN... OUT'", "clean --help"]),
        (["apply", "a", "b", "c"], ["unexpected extra argument", "apply --help"]),
        (["clean", "a", "b", "--threads", "many"], ["'--threads'", "clean --help"]),
        (["clean", "a", "b", "--catalog"], ["'--catalog'", "clean --help"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_unknown_words_are_usage_errors(words: list[str], said: list[str], llm4dsr: Call) -> None:
    """Guards: exit code 1, a traceback, or five lines of Typer's, for a command that was mistyped."""
    llm4dsr(*words).failed(2, *said)


@pytest.mark.parametrize("columns", [60, 100, 140])
def test_help_is_as_wide_as_the_terminal(columns: int, llm4dsr: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: 80 columns on a terminal of 140."""
    monkeypatch.setenv("COLUMNS", str(columns))
    widest = max(len(line) for line in llm4dsr("clean", "--help").out.decode().splitlines())
    assert columns - 12 < widest <= columns


def test_every_command_says_its_own_flags() -> None:
    """Guards: a command registered without what translates the library's errors and sorts its help."""
    assert all(isinstance(command, Command if path in LEAVES else Group) for path, command in commands())


@pytest.mark.parametrize("words", [["--version"], *([*path, "--help"] for path in LINES)], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    """Guards: a second's wait for numpy, llama.cpp or torch before each word of help."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *words], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "llm4dsr_cli" in imported
    assert ("typer" in imported) == (words != ["--version"])
    assert not imported & HEAVY
    assert done.stdout


def test_the_version_comes_at_once() -> None:
    """Guards: a slow start. About 0.1 s where nothing else runs; the bound is for machines that are busy."""
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        outcome = run("--version")
        seconds.append(time.monotonic() - began)
        assert (outcome.code, outcome.out, outcome.err) == (0, f"llm4dsr {llm4dsr_cli.__version__}\n".encode(), "")
    assert statistics.median(seconds) < 1


@pytest.mark.parametrize("words", [["--help"], ["models", "list"], ["models", "show"]], ids=" ".join)
def test_nobody_has_to_read_to_the_end(words: list[str], tiny_denoiser: Path) -> None:
    """Guards: complaints of Python, or a traceback, after ``llm4dsr models show X | head -0``."""
    words = [*words, str(tiny_denoiser)] if words[-1] == "show" else words
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_sentence(tiny_denoiser: Path) -> None:
    """Guards: complaints of Python at its end, with an exit code of its own."""
    with Path("/dev/full").open("wb") as full:
        run("models", "show", tiny_denoiser, stdout=full).failed(1, "stdout: no space left", "free some space")


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["20", "80"])
def test_the_list_names_every_model_whole(columns: str, llm4dsr: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: names that rich cuts or wraps, so that they cannot be copied into a command."""
    monkeypatch.setenv("COLUMNS", columns)
    outcome = llm4dsr("models", "list")
    assert (outcome.code, outcome.err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in outcome.out.decode().splitlines()}
    registry = Registry.load()
    assert set(rows) == {"name", *registry.bases, *registry.denoisers}
    for name, base in registry.bases.items():
        assert rows[name][:2] == ["base", base.licence]
        assert rows[name][-1] == "no"  # the tests' cache is empty
    for name in registry.denoisers:
        assert rows[name][0] == "denoiser"


def test_a_denoiser_tells_what_it_is(tiny_denoiser: Path, tiny_base: Path, llm4dsr: Call) -> None:
    """Guards: a description that is not the file's, or JSON that is none."""
    outcome = llm4dsr("models", "show", tiny_denoiser, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    described = json.loads(outcome.out)
    assert described["name"] == "tiny-denoiser"
    assert described["sha256"] == sha256(tiny_denoiser.read_bytes()).hexdigest()
    assert described["base"]["sha256"] == sha256(tiny_base.read_bytes()).hexdigest()
    assert described["largest window"] == 6
    assert described["licence"] == "Apache-2.0"
    assert described["calibration"]["items that belong"] == 5000
    thresholds = [value for name, value in described["calibration"].items() if name.startswith("threshold")]
    assert len(thresholds) == 5 and thresholds == sorted(thresholds, reverse=True)
    text = llm4dsr("models", "show", tiny_denoiser).out.decode()
    for name in described:
        assert re.search(rf"^{re.escape(name)}:", text, re.MULTILINE)
    assert described["sha256"] in text and described["base"]["sha256"] in text


def test_what_is_no_denoiser_is_not_described(tmp_path: Path, tiny_base: Path, llm4dsr: Call) -> None:
    """Guards: tracebacks of the GGUF reader."""
    llm4dsr("models", "show", tiny_base).failed(1, str(tiny_base), "no denoiser", "llm4dsr finetune")
    llm4dsr("models", "show", "no-such-model").failed(1, "no-such-model", "known: ")
    llm4dsr("models", "show", tmp_path / "missing.gguf").failed(1, "missing.gguf: no such model file")
    llm4dsr("models", "show", tmp_path).failed(1, str(tmp_path))
    text = tmp_path / "text.gguf"
    for content in (b"", b"GGUF", b"hello, this is no model at all" * 10):
        text.write_bytes(content)
        llm4dsr("models", "show", text).failed(1, str(text))


def test_a_base_that_is_absent_is_not_verified(own_cache: Path, llm4dsr: Call) -> None:
    """Guards: "ok" for a file that is not there, or an error without the command that fetches it."""
    name = next(iter(Registry.load().bases))
    llm4dsr("models", "verify", name).failed(1, name, f"llm4dsr models pull {name}")
    llm4dsr("models", "verify", "no-such-base").failed(1, "no-such-base", name)
    llm4dsr("models", "pull", "no-such-base").failed(1, "no-such-base", name)
    llm4dsr("models", "pull", "hf:nonsense").failed(1, "hf:nonsense", "hf:org/repo")
    assert files(own_cache) == {}


# --- finetune --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.jsonl", "--output", "x.bin"], ["--output x.bin", ".gguf"]),
        (["a.jsonl", "--output", "x.gguf", "--time-budget", "soon"], ["--time-budget soon", "60m"]),
        (["a.jsonl", "--output", "x.gguf", "--time-budget", "0m"], ["--time-budget 0m"]),
        (["a.jsonl", "--output", "x.gguf", "--time-budget", "5"], ["--time-budget 5"]),
        (["a", "b", "c", "-o", "x.gguf", "--catalog", "d", "--catalog", "e"], ["2 catalogs for 3 training files"]),
        (["a.jsonl", "--output", "x.gguf", "--max-window", "2"], ["--max-window is 2"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_options_of_finetune_are_checked_first(
    arguments: list[str], words: list[str], tmp_path: Path, llm4dsr: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: hours of training for an output that cannot be written, or a wait for torch before a slip is told."""
    monkeypatch.chdir(tmp_path)
    llm4dsr("finetune", *arguments).failed(2, *words)
    assert files(tmp_path) == {}


def test_finetune_without_its_extra_tells_how_to_install_it(tmp_path: Path) -> None:
    """Guards: ModuleNotFoundError for people who installed the tool for cleaning."""
    absent = preceded_by("import sys; sys.modules['torch'] = None")
    train = tmp_path / "train.jsonl"
    train.write_text('{"items": ["Alien", "Heat"]}\n')
    output = tmp_path / "x.gguf"
    outcome = run("finetune", train, "--output", output, program=absent)
    outcome.failed(1, "torch is not installed", "pip install 'llm4dsr-cli[finetune]'")
    assert set(files(tmp_path)) == {"train.jsonl"}


@pytest.mark.parametrize("message", ["", "the run is kept in x: go on with --resume"])
def test_an_interrupt_keeps_its_message(message: str, llm4dsr: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: Typer swallowing the sentence that says what was kept and how to go on."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt(message)

    monkeypatch.setattr("llm4dsr_cli.model.registry.Registry.load", interrupted)
    llm4dsr("models", "list").failed(130, message or "interrupted")


# --- the library -----------------------------------------------------------------------------------------------------


def names_for_type_checkers() -> dict[str, str]:
    """Module by name, as the imports under ``if TYPE_CHECKING`` of the package say."""
    tree = ast.parse(Path(llm4dsr_cli.__file__).read_text(encoding="utf-8"))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_everything_offered_can_be_imported() -> None:
    """Guards: a name that was moved, or that only type checkers or only Python can find."""
    assert sorted(llm4dsr_cli.__all__) == llm4dsr_cli.__all__
    homes = {name: f"llm4dsr_cli.{module}" for module, names in llm4dsr_cli._HOMES.items() for name in names}
    assert set(homes) | {"__version__"} == set(llm4dsr_cli.__all__)
    assert homes == names_for_type_checkers()
    for name, module in homes.items():
        value = getattr(llm4dsr_cli, name)
        assert value is getattr(importlib.import_module(module), name)
        assert value.__module__ == module, f"{name} only passes through {module}"
        assert value.__doc__, name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = llm4dsr_cli.no_such_name


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Guards: an import of a submodule in ``__init__`` that makes even ``--version`` load numpy."""
    program = "import sys, llm4dsr_cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & HEAVY


@pytest.mark.parametrize("taken", ["TRAIN", "--catalog", "--base", "--init"])
def test_finetune_never_writes_over_what_it_reads(tmp_path: Path, llm4dsr: Call, taken: str) -> None:
    """Guards `-o base.gguf --base base.gguf`: hours of training, and then no base model."""
    precious = tmp_path / "precious.gguf"
    precious.write_bytes(b"precious")
    train = precious if taken == "TRAIN" else tmp_path / "train.jsonl"
    options = [] if taken == "TRAIN" else [taken, precious]
    llm4dsr("finetune", train, "--output", precious, *options).failed(2, taken, "--output", "the same file")
    assert precious.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "option",
    [
        ["--windows", "0"],
        ["--windows", "-40"],
        ["--rank", "0"],
        ["--seed", "-1"],
        ["--learning-rate", "-1"],
        ["--learning-rate", "nan"],
        ["--max-title-tokens", "0"],
        ["--batch-windows", "3"],
        ["--max-window", "2"],
    ],
)
def test_finetune_refuses_settings_that_would_never_end_or_learn(
    tmp_path: Path, llm4dsr: Call, option: list[str]
) -> None:
    """Guards a run that never ends (--windows -40), or a traceback after the base model was loaded."""
    train = tmp_path / "train.jsonl"
    llm4dsr("finetune", train, "--output", tmp_path / "out.gguf", *option).failed(2, option[0])


def test_an_output_folder_that_is_missing_is_told_before_the_training(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards hours of training for an output that cannot be written."""
    output = tmp_path / "missing" / "x.gguf"
    llm4dsr("finetune", "a.jsonl", "--output", output).failed(1, str(output), "mkdir -p")


def test_a_base_model_is_not_taken_for_an_unknown_name(llm4dsr: Call) -> None:
    """Guards "there is no denoiser" for a name that `models list` has just printed."""
    llm4dsr("models", "show", "smollm2-135m-instruct").failed(1, "is a base model", "llm4dsr models list")


def test_a_path_that_cannot_be_looked_at_is_one_sentence(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards: a traceback for a name that is too long, or for a folder that is somebody else's."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    source = tmp_path / "in.jsonl"
    source.write_text('{"items": ["Heat"]}\n')
    bad = {tmp_path / ("x" * 300): "too long"}
    if not os.access(closed, os.X_OK):  # root enters every folder
        bad[closed / "x"] = "permission denied"
    for path, reason in bad.items():
        for words in (
            ["clean", path, "-"],
            ["clean", source, path],
            ["clean", source, "-", "--catalog", f"{path}.csv"],
            ["clean", source, "-", "--gate", path],
        ):
            llm4dsr(*words).failed(1, str(path), reason)
