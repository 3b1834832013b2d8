"""Prompts: one line for each title, whatever the title, and a probe at its end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, PROMPT_FORMATS, Prompter, find_format
from llm4dsr_cli.titles import clean_title

# A busy machine is no bug.
unhurried = settings(deadline=None, max_examples=50)
MAX_TITLE_TOKENS = 16
YES, NO = 1000, 1001
NEWLINE = ord("\n")
titles_of_a_window = st.lists(st.text(max_size=30), min_size=1, max_size=20)


def by_bytes(text: str) -> np.ndarray:
    """A tokenizer with a token for each byte, and the two answers as one token each."""
    answers = {" yes": [YES], " no": [NO]}
    return np.array(answers.get(text, list(text.encode("utf-8", "replace"))), dtype=np.int32)


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(DEFAULT_FORMAT, by_bytes, MAX_TITLE_TOKENS)


@pytest.mark.parametrize(
    ("title", "folded"),
    [
        ("Alien", "Alien"),
        ("  two   spaces  ", "two spaces"),
        ("line\nbreak", "line break"),
        ("line\r\n\tbreak", "line break"),
        ("nul\x00and\x1bescape", "nul and escape"),
        ("next\x85line\u2028and\u2029paragraph", "next line and paragraph"),
        ("right\u202eto left", "right to left"),
        ("zero\u200bwidth\ufeff", "zero width"),
        ("no\u00a0break\u3000space", "no break space"),
        ("映画 é \U0001f600", "映画 é \U0001f600"),
        ("\n\t ", ""),
        ("Tom &amp; Jerry: The &quot;Movie&quot;", 'Tom & Jerry: The "Movie"'),
        ("Rock &amp;amp; Roll", "Rock & Roll"),
        ("two&#10;lines&#x2028;and&nbsp;more&#0;", "two lines and more\ufffd"),
        ("AT&T &copy &unknown; R&D;", "AT&T &copy &unknown; R&D;"),
    ],
)
def test_titles_are_folded_to_one_line(title: str, folded: str) -> None:
    """Guards a title that ends its own line and so speaks for the items after it; letters are left as they are."""
    assert clean_title(title) == folded


@unhurried
@given(st.text(max_size=40) | st.lists(st.sampled_from(["&", "amp;", "#10;", "#38;", "&lt;", "x"])).map("".join))
def test_no_folded_title_holds_a_line_break_or_control_character(title: str) -> None:
    """Guards control characters that a pattern forgot; folding again changes nothing."""
    folded = clean_title(title)
    assert len(folded.splitlines()) <= 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in folded)
    assert clean_title(folded) == folded == folded.strip()


@unhurried
@given(titles_of_a_window)
@example(["", "\n", "a\nb"])
@example(["same", "same", "same"])
def test_each_item_has_one_probe_on_the_separator_that_ends_its_line(prompter: Prompter, titles: list[str]) -> None:
    """Guards probes shifted by one, and items without a probe: empty titles, repeated ones."""
    prompt = prompter.prompt(titles)
    assert prompt.probes.shape == (len(titles),)
    assert prompt.tokens.dtype == prompt.probes.dtype == np.int32
    assert (prompt.tokens[prompt.probes] == NEWLINE).all()
    # The probes are all the separators there are, but for the opening.
    assert prompt.probes.tolist() == np.flatnonzero(prompt.tokens == NEWLINE)[1:].tolist()
    assert prompt.probes[-1] == len(prompt.tokens) - 1
    assert len(prompt.tokens) <= prompter.max_tokens(len(titles))


@unhurried
@given(titles_of_a_window, st.text(max_size=40), st.data())
def test_a_title_has_the_same_tokens_in_every_place(
    prompter: Prompter, titles: list[str], title: str, data: st.DataObject
) -> None:
    """Guards token ids that depend on the place in the window or on the neighbours."""
    place = data.draw(st.integers(0, len(titles)))
    prompt = prompter.prompt([*titles[:place], title, *titles[place:]])
    bounds = [0, *prompt.probes.tolist()]
    found = prompt.tokens[bounds[place] + 1 : bounds[place + 1]]
    alone = prompter.prompt([title]).tokens[1:-1]
    assert found.tolist() == alone.tolist() == by_bytes(clean_title(title))[:MAX_TITLE_TOKENS].tolist()


def test_a_long_title_is_cut_and_costs_no_more_than_a_short_one(prompter: Prompter) -> None:
    """Guards one title of 5,000 characters crowding out a window, and the tokenizer's time spent on what is cut."""
    seen: list[int] = []

    def counting(text: str) -> np.ndarray:
        seen.append(len(text))
        return by_bytes(text)

    long = "abcdefghij" * 500
    prompt = Prompter(DEFAULT_FORMAT, counting, MAX_TITLE_TOKENS).prompt([long, "x", "y" * MAX_TITLE_TOKENS])
    assert max(seen) <= 32 * MAX_TITLE_TOKENS
    assert np.diff(prompt.probes).tolist() == [2, MAX_TITLE_TOKENS + 1]
    assert prompt.probes[0] == 1 + MAX_TITLE_TOKENS
    assert prompt.tokens[1:17].tolist() == list(b"abcdefghijabcdef")
    assert prompter.prompt([long] * 20).tokens.size == prompter.max_tokens(20)


def test_a_base_that_splits_the_answers_is_refused() -> None:
    """Guards noise probabilities read from a part of an answer."""
    with pytest.raises(ModelError, match="not single tokens"):
        Prompter(DEFAULT_FORMAT, lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int32), 16)


def test_formats_are_found_by_name_and_version() -> None:
    """Guards a denoiser of a newer format scored with an older prompt."""
    for (name, version), form in PROMPT_FORMATS.items():
        assert find_format(name, version) is form
    with pytest.raises(ModelError, match="version 99 is not known"):
        find_format(DEFAULT_FORMAT.name, 99)


def test_the_first_answer_is_noise(prompter: Prompter) -> None:
    """Guards log-odds with their sign reversed."""
    assert prompter.answers.tolist() == [YES, NO]


@pytest.mark.parametrize(
    ("lengths", "read", "cut", "words"),
    [
        ([16, 16, 3], 3, 0, None),
        ([*range(1, 10), 17], 10, 1, None),  # a tenth is not yet worth a word
        (
            [*range(1, 9), 17, 40],
            10,
            2,
            "2 of 10 titles (20%) are cut to the 16 tokens that this denoiser reads, some 16",
        ),
    ],
)
def test_titles_that_are_cut_are_counted_once_each(lengths: list[int], read: int, cut: int, words: str | None) -> None:
    """Guards titles of which only the beginning is read, without a word; and one that is counted whenever it comes."""
    prompter = Prompter(DEFAULT_FORMAT, by_bytes, MAX_TITLE_TOKENS)
    for _ in range(2):
        prompter.prompt(["x" * length if n % 2 else "y" * length for n, length in enumerate(lengths)])
    found = prompter.cut_titles
    assert (found.read, found.cut, found.max_tokens) == (read, cut, MAX_TITLE_TOKENS)
    told = found.describe()
    assert (told is None) == (words is None)
    if told is not None and words is not None:
        assert told.startswith(words)
        assert "llm4dsr finetune" in told


def test_long_titles_of_which_enough_is_read_want_no_remedy() -> None:
    """Guards a remedy for English titles, which 16 tokens tell well enough, and one that is missing for Korean ones."""

    def by_words(text: str) -> np.ndarray:
        return np.arange(len(text.split(" ")), dtype=np.int32) if text.strip() else by_bytes(text)

    told = []
    for title in ("a title of a great many words " * 5, "a b c d e " * 5):
        prompter = Prompter(
            DEFAULT_FORMAT, lambda text: by_bytes(text) if text in (" yes", " no") else by_words(text), 16
        )
        prompter.prompt([title])
        assert prompter.cut_titles.share == 1
        told.append(prompter.cut_titles.describe())
    assert "finetune" not in str(told[0])
    assert "finetune" in str(told[1])
