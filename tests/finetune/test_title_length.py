"""Where fine-tuning cuts titles: as early as the catalog allows."""

from __future__ import annotations

import numpy as np
import pytest

from llm4dsr_cli.finetune.title_length import LENGTHS, choose_title_tokens
from llm4dsr_cli.model.prompts import Tokenize

WORDS = ["red", "green", "blue", "small", "large", "round", "wooden", "plastic"]


def by_bytes(text: str) -> np.ndarray:
    """A tokenizer with a token for each byte: the scripts that a model never saw."""
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)


def by_fours(text: str) -> np.ndarray:
    """A tokenizer with a token for each four characters: the language that a model was made for."""
    return np.array([hash(text[i : i + 4]) % 2**31 for i in range(0, len(text), 4)], dtype=np.int32)


def numbered(n: int, text: str) -> list[str]:
    return [f"{number:03} {text}" for number in range(n)]


@pytest.mark.parametrize(
    ("titles", "tokenize", "tokens"),
    [
        (numbered(100, "short"), by_bytes, 16),
        (numbered(100, "x" * 24), by_bytes, 32),  # 28 bytes: whole
        (numbered(100, "드릴" * 6), by_bytes, 48),  # 40 bytes: whole
        (numbered(100, "드릴" * 60), by_bytes, 64),  # nothing suffices: the most
        (numbered(100, " ".join(WORDS * 3)), by_fours, 16),  # 64 characters tell what it is
        (["a" * 80 + title for title in numbered(100, "volume")], by_fours, 24),  # they differ only there
        ([*numbered(97, "short"), *numbered(3, "드릴" * 6)], by_bytes, 48),  # three of a hundred are too many
        ([*numbered(99, "short"), *numbered(1, "드릴" * 6)], by_bytes, 16),  # one is not
        ([], by_bytes, 16),
    ],
)
def test_the_cut_is_the_first_at_which_titles_are_told_apart(
    titles: list[str], tokenize: Tokenize, tokens: int
) -> None:
    """Guards a denoiser for Korean that reads six characters of a title, and one for English that reads four times
    what it needs and takes as much longer."""
    said: list[str] = []
    assert choose_title_tokens([titles], tokenize, say=said.append) == tokens
    assert len(said) == 1
    assert f" {tokens} tokens" in said[0]


def test_each_catalog_counts_however_small() -> None:
    """Guards a small Korean catalog that is cut as the large English one beside it allows."""
    english, korean = numbered(1000, "short"), numbered(20, "드릴" * 6)
    assert choose_title_tokens([english, korean], by_bytes) == choose_title_tokens([korean, english], by_bytes) == 48


def test_what_the_base_model_cannot_hold_is_not_chosen() -> None:
    """Guards a run that refuses a length that nobody asked for."""
    korean = numbered(20, "드릴" * 60)
    for room in LENGTHS:
        assert choose_title_tokens([korean], by_bytes, fits=lambda tokens, room=room: tokens <= room) == room
    assert choose_title_tokens([korean], by_bytes, fits=lambda tokens: False) == LENGTHS[0]
