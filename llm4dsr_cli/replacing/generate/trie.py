"""The trie: a catalog's titles as token sequences, which suggestions are constrained to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.archives import ARCHIVE_ERRORS
from llm4dsr_cli.files import atomic_path

# Stands behind a title's last token in its row; no token id is negative.
PADDING = -1

Tokens = NDArray[np.int32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Node:
    """The titles that share their first ``depth`` tokens: the trie's rows from ``start`` to ``end``, exclusive."""

    start: int
    end: int
    depth: int


class Trie:
    """Token sequences in lexicographic order; a node is a range of them, so that no node has to be stored.

    Equal sequences have one row, so that a leaf is one row: titles that are the same to the model (equal, or equal up
    to where they are cut) are one title, and stand for the first of them.

    Args:
        sequences: token ids of each title with the token that ends a title, which no title holds within; none empty.

    Attributes:
        rows: int32, shape (n_rows, longest), padded with PADDING; four bytes a token.
        title_of: int32, shape (n_rows,): the number of a row's first sequence among ``sequences``.
        row_of: int32, shape (n_sequences,): the row of each sequence.
    """

    def __init__(self, sequences: Iterable[Sequence[int] | Tokens]) -> None:
        parts = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        if not lengths.all():
            raise ValueError("an empty token sequence is no title")
        table = np.full((len(parts), int(lengths.max(initial=0))), PADDING, dtype=np.int32)
        table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate([np.empty(0, dtype=np.int32), *parts])
        # Stable: of equal sequences the first comes first.
        order = np.lexsort(table.T[::-1]) if table.size else np.empty(0, dtype=np.int64)
        table = table[order]
        different = np.ones(len(table), dtype=bool)
        different[1:] = (table[1:] != table[:-1]).any(axis=1)
        self.rows: Tokens = table[different]
        self.title_of: NDArray[np.int32] = order[different].astype(np.int32)
        self.row_of: NDArray[np.int32] = np.empty(len(order), dtype=np.int32)
        self.row_of[order] = np.cumsum(different) - 1
        # The root has the most children and is asked for most often.
        self._of_root = self._find_children(self.root)

    def save(self, path: Path) -> None:
        """Write the trie, atomically (NPZ: ``rows``, ``title_of`` and ``row_of``)."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, rows=self.rows, title_of=self.title_of, row_of=self.row_of)

    @classmethod
    def load(cls, path: Path) -> Trie:
        """Read what ``save`` wrote. Raises OSError or ValueError where that is damaged."""
        trie = cls.__new__(cls)
        try:
            # Given a path, numpy leaves a damaged file open.
            with path.open("rb") as file, np.load(file) as arrays:
                trie.rows, trie.title_of, trie.row_of = arrays["rows"], arrays["title_of"], arrays["row_of"]
        except (KeyError, *ARCHIVE_ERRORS) as error:
            raise ValueError(f"{path} is no whole trie ({error})") from error
        trie._of_root = trie._find_children(trie.root)
        return trie

    @property
    def root(self) -> Node:
        return Node(0, len(self.rows), 0)

    @property
    def nbytes(self) -> int:
        """Memory of the trie's arrays, in bytes."""
        return sum(array.nbytes for array in (self.rows, self.title_of, self.row_of, *self._of_root))

    def children(self, node: Node) -> tuple[Tokens, Rows]:
        """The tokens that may follow a node, ascending, and where each child's rows begin.

        Returns:
            Token ids, shape (n_children,), none for a leaf; and int64 of shape (n_children + 1,): child i is
            ``Node(bounds[i], bounds[i + 1], node.depth + 1)``.
        """
        return self._of_root if node.depth == 0 else self._find_children(node)

    def is_leaf(self, node: Node) -> bool:
        """Whether the node is a whole title."""
        ends = node.depth == self.rows.shape[1] or self.rows[node.start, node.depth] == PADDING
        return bool(ends) and node.depth > 0

    def find(self, sequence: Sequence[int] | Tokens) -> int | None:
        """The row of a token sequence, None where there is none."""
        node = self.root
        for token in np.asarray(sequence, dtype=np.int32).tolist():
            tokens, bounds = self.children(node)
            at = int(np.searchsorted(tokens, token))
            if at == len(tokens) or tokens[at] != token:
                return None
            node = Node(int(bounds[at]), int(bounds[at + 1]), node.depth + 1)
        return node.start if self.is_leaf(node) else None

    def _find_children(self, node: Node) -> tuple[Tokens, Rows]:
        if node.start == node.end or node.depth == self.rows.shape[1]:
            return np.empty(0, dtype=np.int32), np.array([node.start], dtype=np.int64)
        column = self.rows[node.start : node.end, node.depth]
        starts = np.concatenate([[0], np.flatnonzero(column[1:] != column[:-1]) + 1])
        tokens = column[starts]
        if tokens[0] == PADDING:  # a title ends here, and none goes on: its last token is in no title's middle
            return np.empty(0, dtype=np.int32), np.array([node.start], dtype=np.int64)
        return tokens, np.concatenate([node.start + starts, [node.end]]).astype(np.int64)
