"""Options from a project's file: which file, what it may say, and who goes first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from command_line import Call, sequences, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.commands import app
from llm4dsr_cli.commands.project_command import ProjectCommand, settings_of
from llm4dsr_cli.commands.project_file import NAME, READ_ONLY, Setting, find_project_file
from llm4dsr_cli.errors import OptionError

GROUP: Any = typer.main.get_command(app)
COMMANDS = {name: one for name, one in GROUP.commands.items() if isinstance(one, ProjectCommand)}
OPTIONS = [(name, setting) for name, command in COMMANDS.items() for setting in settings_of(command)]
each_option = pytest.mark.parametrize(
    ("command", "setting"), OPTIONS, ids=[f"{name}-{setting.keys[0]}" for name, setting in OPTIONS]
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_environment: None) -> Path:
    """An empty current folder, which is no project."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def parsed(command: str, source: object, *words: object, output: bool = True) -> dict[str, Any]:
    """The values that a command would run with; ``output`` gives it the one that it requires."""
    takes_out = any(parameter.name in ("target", "paths") for parameter in COMMANDS[command].params)
    arguments = [source, *(["OUT"] if takes_out else []), *words]
    if output and command in ("finetune", "calibrate"):
        arguments += ["--output", "mine.gguf"]
    with typer.Context(GROUP, info_name="llm4dsr") as parent:
        context = COMMANDS[command].make_context(command, [*map(str, arguments)], parent=parent)
    inputs = ("source", "data", "train", "paths")
    return {name: value for name, value in context.params.items() if name not in (*inputs, "config")}


def sample(setting: Setting) -> Any:
    """A value that differs from every default."""
    if setting.place == "cluster":
        return "auto"
    return True if setting.kind is bool else {int: 7, float: 0.375, str: "some.gguf"}[setting.kind]


def toml(key: str, value: Any) -> str:
    return f"{key} = {json.dumps(value)}\n"


@each_option
def test_every_option_can_stand_in_a_file(tmp_path: Path, command: str, setting: Setting) -> None:
    """Guards: an option that was added, and is forgotten by the file or taken as another type than on the line."""
    value = sample(setting)
    at_place = str(tmp_path / value) if setting.place in ("file", "model") else str(value)
    output = setting.name != "output"
    for key in setting.keys:
        typed = parsed(command, "IN", f"--{key}", *([] if value is True else [at_place]), output=output)
        for spelling in (key, key.replace("-", "_")):
            for values in [value, *([[value], [value, value]] if setting.many else [])]:
                file = tmp_path / "options.toml"
                for text in (toml(spelling, values), f"[{command}]\n{toml(spelling, values)}"):
                    file.write_text(text)
                    got = parsed(command, "IN", "--config", file, output=output)
                    if isinstance(values, list) and len(values) == 2:
                        got[setting.name] = got[setting.name][1:]
                    assert got == typed


@each_option
def test_a_value_of_another_type_is_one_sentence(tmp_path: Path, command: str, setting: Setting) -> None:
    """Guards: --no-fusion 1, a field named 7, or a list's characters as so many fields."""
    wrong: list[Any] = ["yes", 1] if setting.kind is bool else [True, {"a": 1}]
    wrong += [] if setting.many else [["a"]]
    wrong += [7] if setting.kind is str else []
    wrong += [0.5] if setting.kind is int else []
    for value in wrong:
        file = tmp_path / "options.toml"
        file.write_text(
            f"[{command}]\n{setting.keys[0]} = {json.dumps(value).replace(':', '=')}\n".replace('"a"=', "a=")
        )
        with pytest.raises(OptionError, match=f'"{setting.keys[0]}" in .{command}. is an? .*: give ') as raised:
            parsed(command, "IN", "--config", file)
        assert raised.value.where == str(file)


@each_option
def test_a_file_that_is_found_neither_writes_nor_loads_models(tmp_path: Path, command: str, setting: Setting) -> None:
    """Guards: data of a stranger with a file beside it that overwrites one of ours, has llama.cpp read theirs, or sends
    ours to their cluster."""
    harmful = {"audit", "report", "rejects", "output", "plot", "state", "model", "base", "init", "ray"}
    if command == "trial":
        harmful.add("as_json")
    assert setting.for_found == (setting.name not in harmful)
    (tmp_path / NAME).write_text(toml(setting.keys[0], sample(setting)))
    if setting.for_found:
        assert parsed(command, tmp_path / "in.jsonl") == parsed(command, "IN", "--config", tmp_path / NAME)
        return
    with pytest.raises(OptionError, match=f"--config {tmp_path / NAME}"):
        parsed(command, tmp_path / "in.jsonl")
    assert parsed(command, tmp_path / "in.jsonl", "--no-config")["no_config"]


@pytest.mark.parametrize("name", READ_ONLY)
@pytest.mark.parametrize("path", ["../secret.csv", "/etc/hostname", "link.csv", "sub/../../secret.csv"])
def test_a_file_that_is_found_reads_only_beside_itself(tmp_path: Path, name: str, path: str) -> None:
    """Guards: a stranger's file that has our own files read, and their lines written as titles."""
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.csv").write_text("id,title\n1,secret\n")
    (folder / "link.csv").symlink_to(tmp_path / "secret.csv")
    (folder / NAME).write_text(toml(name, path))
    with pytest.raises(OptionError, match="leads out of the folder"):
        parsed("clean", folder / "in.jsonl")
    assert parsed("clean", folder / "in.jsonl", "--config", folder / NAME)[name] == str(folder / path)


def test_names_of_models_are_no_paths(tmp_path: Path) -> None:
    """Guards: "data/smollm2-135m-instruct is missing"."""
    file = tmp_path / "mine.toml"
    file.write_text('model = "llm4dsr-smollm2-135m"\nbase = "hf:org/repo/file.gguf"\n')
    found = parsed("clean", "IN", "--config", file)
    assert (found["model"], found["base"]) == ("llm4dsr-smollm2-135m", "hf:org/repo/file.gguf")


def test_what_is_typed_goes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: a threads = 8 of the project on a machine whose environment says 2."""
    (tmp_path / NAME).write_text('threads = 5\nprotect-last = 4\nparallel-field = ["a"]\noffline = true\n')
    source = tmp_path / "in.jsonl"
    found = parsed("clean", source)
    assert (found["threads"], found["protect_last"], found["parallel_field"]) == (5, 4, ["a"])
    assert found["offline"]
    monkeypatch.setenv("LLM4DSR_THREADS", "6")
    monkeypatch.setenv("LLM4DSR_OFFLINE", "false")
    found = parsed("clean", source, "--parallel-field", "b", "--parallel-field", "c")
    assert (found["threads"], found["offline"], found["protect_last"]) == (6, False, 4)
    assert found["parallel_field"] == ["b", "c"], "a list is replaced, not added to"
    assert parsed("clean", source, "--threads", "7")["threads"] == 7
    assert parsed("clean", source, "--no-config", "--protect-last", 2)["protect_last"] == 2


def test_a_table_of_the_command_goes_before_the_top(tmp_path: Path) -> None:
    """Guards: an [evaluate] whose options another command takes, or a top that hides it."""
    (tmp_path / NAME).write_text("protect-last = 2\nseed = 5\n[clean]\nprotect-last = 3\n[evaluate]\nseed = 9\n")
    source = tmp_path / "in.jsonl"
    assert parsed("clean", source)["protect_last"] == 3, "and seed, which it does not have, is no error"
    found = parsed("evaluate", source)
    assert (found["protect_last"], found["seed"]) == (2, 9)


def test_a_switch_with_two_names_has_one_key(tmp_path: Path) -> None:
    for value in (True, False):
        (tmp_path / NAME).write_text(toml("early-stop", value))
        assert parsed("finetune", tmp_path / "in.jsonl")["early_stop"] is value
    assert parsed("finetune", tmp_path / "in.jsonl", "--early-stop")["early_stop"] is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('usr-field = "a"', '"usr-field" is no option: did you mean "user-field"'),
        ("[claen]\nedit = 0.1", '"claen" is no option: did you mean "clean"'),
        ('[clean]\nactoin = "drop"', '"actoin" in [clean] is no option of `llm4dsr clean`: did you mean "action"'),
        ('[trial]\nactoin = ["drop"]', '"actoin" in [trial] is no option of `llm4dsr trial`: did you mean "action"'),
        ("[clean]\nseeds = 3", '"seeds" in [clean] is no option of `llm4dsr clean`'),
        ("qqqqqq = 1", '"qqqqqq" is no option: see llm4dsr --help'),
        ('config = "other.toml"', '"config" is no option'),
        ("help = true", '"help" is no option'),
        ('clean = "fast"', '"clean" is a string, and should be a table'),
        ('user-field = "a"\nuser_field = "b"', '"user-field" stands there twice'),
        ("edit = 0.1\nbudget = 0.2", '"edit" and "budget" are one option'),
        ("seed = 99999999999999999999", '"seed" in the file'),
        ("edit = 1979-05-27", '"edit" is a date or time: give a number or a string'),
        ('catalog = "a\\u0000b"', '"catalog" is no path'),
        ("edit = ", "is not valid TOML"),
        ("a = " + "[" * 5000, "is not valid TOML"),
        ('edit = "much"', "invalid value for '--edit'"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    """Guards: an option that is silently not set, for want of one letter; and a traceback."""
    (tmp_path / NAME).write_text(text)
    command = "evaluate" if text.startswith("seed") else "clean"
    with pytest.raises(OptionError) as raised:
        parsed(command, tmp_path / "in.jsonl")
    assert str(raised.value).startswith(f"{tmp_path / NAME}: ")
    assert said.replace(" in the file", " is too large") in str(raised.value)
    assert raised.value.remedy


@pytest.mark.parametrize("content", [b"\xff\xfe", b"# " + b"a" * 2_000_000])
def test_a_file_that_is_no_text_of_options_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(OptionError, match=r"llm4dsr\.toml: is (not UTF-8|too large)"):
        parsed("clean", tmp_path / "in.jsonl")


def test_a_mark_of_windows_before_the_text_is_no_error(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\xef\xbb\xbfprotect-last = 3\r\n")
    assert parsed("clean", tmp_path / "in.jsonl")["protect_last"] == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.data())
def test_no_file_makes_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    """Guards: a stranger's file that ends the run in another way than by one sentence."""
    keys = st.sampled_from(["edit", "seed", "catalog", "clean", "padding-id", "no-fusion", "model", "threads", "x"])
    scalars = st.text(max_size=4) | st.integers() | st.floats() | st.booleans() | st.just("1979-05-27T07:32:00Z")
    values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(keys, scalars, max_size=2)

    def written(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {written(inner)}" for key, inner in value.items()) + "}"
        if isinstance(value, list):
            return f"[{', '.join(map(written, value))}]"
        return json.dumps(value).lower().replace("infinity", "inf")

    table = data.draw(st.dictionaries(keys, values, max_size=4))
    text = "".join(f"{key} = {written(value)}\n" for key, value in table.items()).encode()
    cut = data.draw(st.integers(0, len(text)) | st.just(len(text)))
    (tmp_path / NAME).write_bytes(text[:cut] + data.draw(st.just(b"") | st.binary(max_size=3)))
    try:
        parsed("clean", tmp_path / "in.jsonl")
    except OptionError as error:
        assert error.where == str(tmp_path / NAME)


def test_the_file_beside_the_input_goes_before_the_one_here(tmp_path: Path, elsewhere: Path) -> None:
    """Guards: options of the folder in which somebody happens to stand, for data that has its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    (elsewhere / NAME).write_text("protect-last = 2\n")
    assert parsed("clean", folder / "in.jsonl")["protect_last"] == 2
    (folder / NAME).write_text("edit = 0.5\n")
    found = parsed("clean", folder / "in.jsonl")
    assert (found["edit"], found["protect_last"]) == (0.5, 1), "one file, not a mixture of two"
    assert parsed("finetune", folder / "in.jsonl")["items_field"] == "items"
    assert find_project_file("-") == find_project_file(None) != find_project_file(str(folder / "in.jsonl"))


def test_a_project_ends_at_its_root(tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: a pyproject.toml that anybody put into /tmp."""
    table = "[tool.llm4dsr]\nprotect-last = {}\n"
    (tmp_path / "pyproject.toml").write_text(table.format(9))
    assert parsed("clean", "in.jsonl")["protect_last"] == 1, "no root: nothing above the current folder"
    root = elsewhere
    below = root / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    (root / ".git").mkdir()
    assert parsed("clean", "in.jsonl")["protect_last"] == 1, "not above the root"
    (root / "pyproject.toml").write_text(table.format(2))
    (root / "a" / "pyproject.toml").write_text('[project]\nname = "llm4dsr-user"\n')
    assert parsed("clean", "in.jsonl")["protect_last"] == 2
    (root / "a" / "pyproject.toml").write_text("[tool.other\n")
    assert parsed("clean", "in.jsonl")["protect_last"] == 2, "another program's file is not ours to refuse"
    (below / "pyproject.toml").write_text(table.format(3))
    assert parsed("clean", "in.jsonl")["protect_last"] == 3
    (below / NAME).write_text("protect-last = 4\n")
    assert parsed("clean", "in.jsonl")["protect_last"] == 4


def test_a_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: a file that is named beside one that is found, and both count."""
    (tmp_path / NAME).write_text("protect-last = 2\n")
    mine, other = tmp_path / "mine.toml", tmp_path / "pyproject.toml"
    mine.write_text("edit = 0.5\n")
    other.write_text("[tool.llm4dsr]\nedit = 0.25\n")
    source = tmp_path / "in.jsonl"
    monkeypatch.setenv("LLM4DSR_CONFIG", str(mine))
    found = parsed("clean", source)
    assert (found["edit"], found["protect_last"]) == (0.5, 1)
    assert parsed("clean", source, "--config", other)["edit"] == 0.25
    assert parsed("clean", source, "--no-config")["edit"] is None
    with pytest.raises(OptionError, match="--config and --no-config contradict"):
        parsed("clean", source, "--config", other, "--no-config")
    with pytest.raises(OptionError, match="cannot be read"):
        parsed("clean", source, "--config", tmp_path / "missing.toml")
    with pytest.raises(OptionError, match="there is no "):
        other.write_text("")
        parsed("clean", source, "--config", other)


def test_help_is_there_whatever_the_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards: "see llm4dsr clean --help", which says the same once more."""
    (tmp_path / NAME).write_text("nonsense\n")
    with pytest.raises((SystemExit, typer.Exit)):
        parsed("clean", tmp_path / "in.jsonl", "--help")
    assert "[default: drop]" in capsys.readouterr().out


def test_a_run_says_what_it_took(tmp_path: Path, clean: Call) -> None:
    """Guards: an edit that nobody asked for, and nothing that says where it came from."""
    source = write(tmp_path / "in.jsonl", [{"events": titles} for titles in sequences(5)])
    report, target = tmp_path / "r.json", tmp_path / "out.jsonl"
    (tmp_path / NAME).write_text('items-field = "events"\nthreads = 2\nthreshold = 0.5\nweights = "q8_0"\n')
    line = f"options from {tmp_path / NAME}: --items-field events, --threshold 0.5\n"
    outcome = clean(source, target, "--report", report)
    assert (outcome.code, outcome.err.count(line)) == (0, 1), outcome.err
    told = {"file": str(tmp_path / NAME), "options": {"items-field": "events", "threshold": 0.5}}
    assert json.loads(report.read_bytes())["config"] == told, "not what was typed all the same"
    assert line not in clean(source, target, "--quiet").err
    clean(source, target, "--report", report, "--no-config", "--items-field", "events")
    assert json.loads(report.read_bytes())["config"] is None
    # Nor does a stranger's file hide what it does.
    (tmp_path / NAME).write_text('items-field = "events"\nquiet = true\n')
    assert clean(source, target).err == f"options from {tmp_path / NAME}: --items-field events, --quiet\n"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("on-error", "never", "--on-error never: no such way"),
        ("fallback", "keep", "--fallback says how to replace"),
        ("threshold", 2, "--threshold is 2"),
    ],
)
def test_a_choice_that_there_is_not_names_the_file(
    tmp_path: Path, clean_quietly: Call, key: str, value: Any, said: str
) -> None:
    """Guards: "--on-error never" to somebody who typed no such thing."""
    source = write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(3)])
    (tmp_path / NAME).write_text(toml(key, value))
    clean_quietly(source, tmp_path / "out.jsonl").failed(2, f"llm4dsr: {tmp_path / NAME}: {said}")
    typed = clean_quietly(source, tmp_path / "out.jsonl", "--no-config", f"--{key}", value)
    typed.failed(2, f"llm4dsr: {said}")
    # What the file did not cause is not laid to it.
    (tmp_path / NAME).write_text("protect-last = 1\n")
    assert clean_quietly(source, tmp_path / "out.jsonl", f"--{key}", value) == typed
