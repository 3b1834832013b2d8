"""Branching: prompts that are each read once, and continued in several ways at the same time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.closing import Closing
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.model.llama import MAX_SEQUENCES, Context, Model, Tokens

# Two sets of sequences: the branches of this step and those of the next, which take over their cells.
MAX_BRANCHES = MAX_SEQUENCES // 2
# For a single token llama.cpp sums the attention to so many cells in as many parts as there are threads (ggml-cpu's
# ops.cpp, use_split_kv_path), so that the result depends on their number; not for two tokens.
_SPLIT_CELLS = 512
_LAST = np.zeros(1, dtype=np.int32)


class Branching(Closing):
    """Reads prompts causally and goes on from them token by token; branches of one prompt share its cells.

    It is not thread-safe.

    Args:
        cells: tokens that all prompts and branches of one ``start`` may have together.
        batch_tokens: tokens that are run at once; the longest prompt.
        threads: CPU threads; None is as many as other processes leave cores free, at every moment.

    Attributes:
        max_branches: MAX_BRANCHES, or fewer where a batch, or the cells, have fewer than two tokens for each.

    Raises:
        ModelError: llama.cpp cannot make the context, or a decode fails.
    """

    def __init__(self, model: Model, *, cells: int = 2048, batch_tokens: int = 512, threads: int | None = None) -> None:
        self._context = Context(model, causal=True, cells=cells, batch_tokens=batch_tokens, threads=threads)
        self.cells = cells
        self.max_branches = self._context.max_sequences // 2
        self._branches: list[int] = []  # the sequence of each
        self._lengths: list[int] = []

    def start(self, prompts: Sequence[Tokens]) -> NDArray[np.float32]:
        """Forget everything, and read prompts: each is a branch of its own.

        Args:
            prompts: token ids, shape (n_tokens,) each, none empty; at most ``max_branches``.

        Returns:
            Log-probabilities of the tokens to come after each prompt, in nats: shape (n_prompts, n_vocab).

        Raises:
            OptionError: they are too many or too long; the branches there are stay.
        """
        lengths = [len(prompt) for prompt in prompts]
        if not lengths or not all(lengths):
            raise ValueError("nothing comes after an empty prompt")
        if len(prompts) > self.max_branches or sum(lengths) > self.cells:
            raise OptionError(f"{len(prompts)} prompts of {sum(lengths)} tokens are too many", remedy="start fewer")
        if max(lengths) > self._context.batch_tokens:
            raise OptionError(
                f"a prompt of {max(lengths)} tokens does not fit a batch of {self._context.batch_tokens}",
                remedy="use a larger batch or a smaller window",
            )
        self._context.clear()
        found: list[NDArray[np.float32]] = []
        at = 0
        while at < len(prompts):
            until, filled = at, 0
            while until < len(prompts) and filled + lengths[until] <= self._context.batch_tokens:
                filled += lengths[until]
                until += 1
            found += self._context.decode(
                prompts[at:until],
                range(at, until),
                [0] * (until - at),
                [np.array([n - 1], dtype=np.int32) for n in lengths[at:until]],
            )
            at = until
        self._branches, self._lengths = list(range(len(prompts))), lengths
        return np.concatenate(found)

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Replace the branches by their continuations; those that are continued by none are forgotten.

        Args:
            parents: the place, among the branches there are, of the one that each new branch continues.
            tokens: the token that continues it.

        Returns:
            Log-probabilities of the tokens to come after each new branch, in nats: shape (n_branches, n_vocab).

        Raises:
            OptionError: more than ``max_branches``.
            ModelError: the cells do not suffice.
        """
        if len(parents) > self.max_branches:
            raise OptionError(
                f"{len(parents)} branches are more than {self.max_branches}", remedy="start fewer prompts"
            )
        first = 0 if self._branches and self._branches[0] >= self.max_branches else self.max_branches
        branches = list(range(first, first + len(parents)))
        for branch, parent in zip(branches, parents, strict=True):
            self._context.share(self._branches[parent], branch)
        for branch in self._branches:
            self._context.forget(branch)
        starts = [self._lengths[parent] for parent in parents]
        self._branches, self._lengths = branches, [start + 1 for start in starts]
        pieces = [np.array([token], dtype=np.int32) for token in tokens]
        if len(pieces) != 1 or self.cells < _SPLIT_CELLS:
            return np.concatenate(self._context.decode(pieces, branches, starts, [_LAST] * len(pieces)))
        twin = branches[0] + 1
        self._context.share(branches[0], twin)
        rows = self._context.decode(pieces * 2, [*branches, twin], starts * 2, [_LAST] * 2)
        self._context.forget(twin)
        return rows[0]

    def close(self) -> None:
        """Free the context; the model stays the caller's."""
        self._context.close()
