"""Texts of strangers on a terminal: seen, never obeyed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, call
from conftest import write_tiny_adapter
from gguf_mutants import STRING, Value, take_apart
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli.console import Console
from llm4dsr_cli.errors import Llm4dsrError, ModelError
from llm4dsr_cli.text import printable, printable_json, shortened

# Clears the screen, names the window, writes over the line, turns the direction of writing, C1's way to say ESC [.
HOSTILE = "\x1b[2J\x1b]0;pwned\x07\r\nllm4dsr: all is well\u202e\x9b1m\ud800"


@given(st.text())
def test_a_printable_text_is_one_line_and_says_the_same(text: str) -> None:
    """Guards characters left out, letters of other scripts escaped, and escapes that cannot be told apart."""
    shown = printable(text)
    assert shown.isprintable()
    assert (shown == text) == text.isprintable()
    letters = "".join(c for c in text if c.isprintable())
    assert printable(letters) == letters
    assert len(shortened(text, 10)) <= 10 * 10 + 3


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_printable_json_is_the_same_value(value: Any) -> None:
    """Guards JSON that is broken by an escape that JSON does not have."""
    for text in (json.dumps(value, indent=2, ensure_ascii=False), json.dumps(value)):
        shown = printable_json(text)
        assert json.loads(shown) == value
        assert all(line.isprintable() for line in shown.split("\n"))


def test_errors_are_one_printable_line() -> None:
    """Guards a name in a file, or a server's answer, that makes the terminal show another message."""
    for error in (Llm4dsrError(HOSTILE, where=HOSTILE, remedy=HOSTILE), ModelError(f"its name is {HOSTILE}")):
        assert str(error).isprintable()
        assert r"\x1b[2J\x1b]0;pwned\x07\r\n" in str(error)
        error.reword(lambda part: f"{part}\x1b[0m")
        assert str(error).isprintable()


def test_messages_and_logs_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards `first use of NAME` and llama.cpp's log, which lists the texts of a file."""
    logger = logging.getLogger("llm4dsr")
    before = list(logger.handlers)
    try:
        console = Console(verbose=True)
        console.say(f"first use of {HOSTILE}")
        console.warn(HOSTILE)
        logging.getLogger("llm4dsr.llama_cpp").info("kv 3: general.name = %s", HOSTILE)
    finally:
        for handler in logger.handlers[:]:
            if handler not in before:
                logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() and "pwned" in line for line in lines)


@pytest.fixture
def hostile_denoiser(tiny_base: Path, tmp_path: Path) -> Path:
    """A good adapter whose texts are hostile."""
    path = write_tiny_adapter(tmp_path / "hostile.gguf", tiny_base)
    file = take_apart(path)
    text = HOSTILE.encode(errors="replace")
    training = json.dumps({HOSTILE[:-1]: [HOSTILE[:-1]]}, ensure_ascii=False).encode()
    texts = {b"general.name": text, b"general.license": text, b"llm4dsr.training": training}
    file.values = [(name, Value(STRING, texts[name]) if name in texts else value) for name, value in file.values]
    path.write_bytes(file.encoded())
    return path


def test_a_hostile_denoiser_is_shown_escaped(
    hostile_denoiser: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Guards a terminal that a downloaded file takes over by `models show`."""
    shown = call(monkeypatch, capfdbinary, "models", "show", hostile_denoiser)
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.decode().split("\n")
    assert all(line.isprintable() for line in lines)
    assert sum("pwned" in line for line in lines) >= 3
    as_json = call(monkeypatch, capfdbinary, "models", "show", hostile_denoiser, "--json")
    assert all(line.isprintable() for line in as_json.out.decode().split("\n"))
    described = json.loads(as_json.out)
    assert described["name"] == HOSTILE.encode(errors="replace").decode()
    assert described["training"] == {HOSTILE[:-1]: [HOSTILE[:-1]]}


def test_a_hostile_denoiser_is_used_without_harm(
    hostile_denoiser: Path, tmp_path: Path, clean: Call, warm_environment: None
) -> None:
    """Guards the lines of a first use, and of a run that fails."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"items": ["a", "b"]}\n')
    done = clean(source, tmp_path / "out.jsonl", "--model", hostile_denoiser, "--threshold", 0.5)
    assert done.code == 0
    assert "first use of" in done.err
    assert all(line.isprintable() for line in done.err.splitlines())
    rate = ("--no-fusion", "--false-edit-rate", 1e-9)
    refused = clean(source, tmp_path / "out.jsonl", "--model", hostile_denoiser, *rate)
    refused.failed(1)
    assert refused.err[:-1].isprintable()


def test_a_file_name_with_a_line_break_stays_on_its_line(clean: Call, tmp_path: Path, warm_environment: None) -> None:
    """Guards two messages where there is one."""
    clean(tmp_path / "a\nllm4dsr: b.jsonl", tmp_path / "out.jsonl").failed(1, r"a\nllm4dsr: b.jsonl")
