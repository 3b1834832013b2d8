"""Prompts: item titles in, token ids and probe positions out; one module for training and for inference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.titles import CutTitles, clean_title

# Many of llama.cpp's pre-tokenizers are regular expressions of the C++ library, which overflow the stack, and end the
# process, somewhere beyond 8,000 characters.
MAX_TITLE_CHARACTERS = 4096

Tokenize = Callable[[str], NDArray[np.int32]]


@dataclass(frozen=True)
class Prompt:
    """Token ids of one window (shape (n_tokens,)) and the position of each item's probe (shape (n_items,))."""

    tokens: NDArray[np.int32]
    probes: NDArray[np.int32]


@dataclass(frozen=True)
class PromptFormat:
    """How a window of titles is put to the model. A denoiser's metadata names its format and version.

    Attributes:
        causal: False when the model reads the window with bidirectional attention.
        opening: text before the first title; gives attention a place to rest that is no title.
        separator: text that ends a title; the probe is its last token.
        noise, belongs: the two tokens whose log-odds at a probe are the item's noise log-odds.
    """

    name: str
    version: int
    causal: bool
    opening: str
    separator: str
    noise: str
    belongs: str


PROMPT_FORMATS = {
    (form.name, form.version): form
    for form in [
        PromptFormat(
            name="titles-by-line",
            version=1,
            causal=False,
            opening="\n",
            separator="\n",
            noise=" yes",
            belongs=" no",
        )
    ]
}
DEFAULT_FORMAT = PROMPT_FORMATS["titles-by-line", 1]


def find_format(name: str, version: int) -> PromptFormat:
    """The prompt format a denoiser was trained with.

    Raises:
        ModelError: this version of llm4dsr does not know it.
    """
    try:
        return PROMPT_FORMATS[name, version]
    except KeyError:
        raise ModelError(
            f"prompt format {name!r} version {version} is not known to this llm4dsr",
            remedy="pip install -U llm4dsr-cli",
        ) from None


class Prompter:
    """Turns windows of titles into prompts, keeping each title's token ids for its next use.

    Args:
        tokenize: the base model's tokenizer, without special tokens.
        max_title_tokens: longer titles are cut to this many tokens.

    Attributes:
        cut_titles: how many titles were read so far, and how many of them were cut.
    """

    def __init__(self, form: PromptFormat, tokenize: Tokenize, max_title_tokens: int) -> None:
        self.format = form
        self.max_title_tokens = max_title_tokens
        self.cut_titles = CutTitles(max_title_tokens)
        self._tokenize = tokenize
        self._opening = tokenize(form.opening)
        self._separator = tokenize(form.separator)
        # Bounded, since a stream may bring titles without end.
        self._title_tokens = functools.lru_cache(maxsize=2**18)(self._cut_tokens)
        if not (len(self._opening) and len(self._separator)):
            raise ModelError("this base model has no token for a line break", remedy="choose another base model")
        noise, belongs = tokenize(form.noise), tokenize(form.belongs)
        if len(noise) != 1 or len(belongs) != 1:
            raise ModelError(
                f"{form.noise!r} and {form.belongs!r} are not single tokens of this base model",
                remedy="choose another base model",
            )
        # Order: log-odds of noise = row[0] - row[1].
        self.answers = np.concatenate([noise, belongs])

    def prompt(self, titles: Sequence[str]) -> Prompt:
        """The prompt for one window of n_items titles, in order."""
        parts = [self._opening]
        for title in titles:
            parts.append(self._title_tokens(title))
            parts.append(self._separator)
        ends = np.cumsum([len(part) for part in parts], dtype=np.int32)
        return Prompt(tokens=np.concatenate(parts), probes=ends[2::2] - np.int32(1))

    def different(self, titles: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
        """The titles that the model can tell apart, in the order in which they first stand.

        Titles are the same to the model when they are equal, and also when they are equal up to where they are cut.

        Returns:
            The different titles, and for each given one which of them it is: int64, shape (n_items,).
        """
        numbers: dict[bytes, int] = {}
        item_of = [numbers.setdefault(self._title_tokens(title).tobytes(), len(numbers)) for title in titles]
        first = [item_of.index(number) for number in range(len(numbers))]
        return [titles[place] for place in first], np.array(item_of, dtype=np.int64)

    def line(self, title: str) -> NDArray[np.int32]:
        """A title's tokens and those that end it: what goes on a prompt of other titles, int32, shape (n_tokens,)."""
        return np.concatenate([self._title_tokens(title), self._separator])

    def max_tokens(self, n_items: int) -> int:
        """The longest prompt that a window of ``n_items`` items can become, in tokens."""
        return len(self._opening) + n_items * (self.max_title_tokens + len(self._separator))

    def _cut_tokens(self, title: str) -> NDArray[np.int32]:
        # Hardly a token is longer than 32 characters: what lies beyond is cut anyway, so spare the tokenizer.
        text = clean_title(title)[: min(32 * self.max_title_tokens, MAX_TITLE_CHARACTERS)]
        tokens = self._tokenize(text)
        self.cut_titles.add(len(text), len(tokens))
        return tokens[: self.max_title_tokens]
