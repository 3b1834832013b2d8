"""Known windows: the log-odds of windows that were judged before, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.model.llama import Tokens
from llm4dsr_cli.scores import Scores

# What Python needs for an entry beside its numbers: measured, and rounded up.
_BYTES_OF_AN_ENTRY = 320


class KnownWindows:
    """Noise log-odds by a window's token ids; what was asked for longest ago makes room for what is new.

    Of a window only the items that were judged by it are known, not those that another one judges: so that it can be
    filled from the scores of a run that was stopped, and then holds what it held then.

    Args:
        most_bytes: at most so much memory.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._windows: OrderedDict[bytes, Scores] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def find(self, tokens: Tokens, items: NDArray[np.int64]) -> Scores | None:
        """A window's log-odds, shape (n_items,), NaN for unknown ones; None if one of these items is unknown."""
        found = self._windows.get(_key(tokens))
        return None if found is None or np.isnan(found[items]).any() else found

    def keep(self, tokens: Tokens, n_items: int, items: NDArray[np.int64], log_odds: Scores) -> None:
        """Know ``log_odds``, one for each of ``items``, which are some of a window's ``n_items``."""
        key = _key(tokens)
        known = self._windows.get(key)
        if known is None:
            known = self._windows[key] = np.full(n_items, np.nan, dtype=np.float32)
            self._bytes += _size(key, known)
        self._windows.move_to_end(key)
        known[items] = log_odds
        while self._bytes > self._most_bytes and self._windows:
            self._bytes -= _size(*self._windows.popitem(last=False))


def _key(tokens: Tokens) -> bytes:
    return blake2b(tokens.tobytes(), digest_size=16).digest()


def _size(key: bytes, log_odds: Scores) -> int:
    return len(key) + log_odds.nbytes + _BYTES_OF_AN_ENTRY
