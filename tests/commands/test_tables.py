"""Tables and outlines fit their width, and nothing in them is cut."""

from __future__ import annotations

import pytest

from llm4dsr_cli.commands.text import aligned, outline

ROWS = [["kind", "size", "file"], ["merged", "1 MB", "a" * 30], ["trie", "100 MB", "b" * 50]]


@pytest.mark.parametrize("width", [60, 70, 100])
def test_a_table_fits_and_keeps_its_names_whole(width: int) -> None:
    """Guards: names that are cut, or broken so that nobody can copy them."""
    lines = aligned(ROWS, width, right=(1,)).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("a" * 30 in line for line in lines) == sum("b" * 50 in line for line in lines) == 1
    assert len(lines) == (3 if width > 64 else 6)
    assert all(line == line.rstrip() for line in lines)
    assert [line.find("MB") for line in lines if "MB" in line] == [12, 12]


def test_an_outline_fits_and_says_all() -> None:
    """Guards: lines of JSON as wide as five screens, and figures that are left out."""
    values = {
        "name": "it",
        "sha256": "0" * 64,
        "empty": [],
        "inner": {"rates": [0.1, 0.2], "deep": {"n": 1}},
        "domains": [{"name": f"domain {n}", "titles": n * 10**6, "users": "u" * 20} for n in range(5)],
        "note": "a word " * 40,
    }
    text = outline(values, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "  rates: 0.1, 0.2\n  deep:\n    n: 1\n" in text
    assert "  name domain 4, titles 4000000, users " in text
    assert text.count("word") == 40


def test_an_outline_obeys_no_file() -> None:
    """Guards: a denoiser's licence that clears the screen."""
    text = outline({"licence": "\x1b[2JMIT", "in\x1bner": {"\x07a": ["\x1b"]}}, 80)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "MIT" in text
