"""The engine: token ids in, log-probabilities out. It knows no titles, prompts or records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.closing import Closing
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.model.llama import Context, Model, Tokens


@dataclass(frozen=True)
class Request:
    """One sequence to run: its token ids (shape (n_tokens,)) and where to read (shape (n_positions,))."""

    tokens: Tokens
    positions: Tokens


class Engine(Closing):
    """Runs many token sequences at once through one llama.cpp context.

    Sequences are packed into micro-batches of at most ``batch_tokens`` tokens, in their order. Within a micro-batch
    they share one key-value buffer but do not see each other. Batched results agree with one-at-a-time results to
    about 0.05 in log-probability with 16-bit weights: llama.cpp picks its kernels by the shape of the batch.

    A context is not thread-safe: use one engine a thread.

    Args:
        causal: False lets every token see the whole sequence (llama.cpp's non-causal mode), which needs each
            sequence to fit into one micro-batch.
        batch_tokens: size of a micro-batch, in tokens.
        threads: CPU threads; None is as many as other processes leave cores free, at every moment.

    Raises:
        ModelError: the context cannot be made, or a decode fails.
    """

    def __init__(self, model: Model, *, causal: bool, batch_tokens: int = 512, threads: int | None = None) -> None:
        self._context = Context(model, causal=causal, cells=batch_tokens, batch_tokens=batch_tokens, threads=threads)
        self.batch_tokens = batch_tokens

    def log_probabilities(self, requests: Iterable[Request], candidates: Tokens) -> Iterator[NDArray[np.float32]]:
        """Log-probability of each candidate token at each requested position.

        Args:
            requests: sequences and the positions to read; the prediction read at position p is the one that the
                model makes having seen the token at p.
            candidates: token ids, shape (n_candidates,).

        Yields:
            For each request, in order, a float32 array of shape (n_positions, n_candidates), in nats.

        Raises:
            OptionError: a sequence is longer than a micro-batch.
        """
        pending: list[Request] = []
        filled = 0
        for request in requests:
            size = len(request.tokens)
            if size > self.batch_tokens:
                raise OptionError(
                    f"a sequence of {size} tokens does not fit a batch of {self.batch_tokens}",
                    remedy="use a larger batch or a smaller window",
                )
            if filled + size > self.batch_tokens or len(pending) == self._context.max_sequences:
                yield from self._decode(pending, candidates)
                pending, filled = [], 0
            pending.append(request)
            filled += size
        if pending:
            yield from self._decode(pending, candidates)

    def _decode(self, requests: Sequence[Request], candidates: Tokens) -> list[NDArray[np.float32]]:
        self._context.clear()
        found = self._context.decode(
            [request.tokens for request in requests],
            range(len(requests)),
            [0] * len(requests),
            [request.positions for request in requests],
        )
        return [rows[:, candidates] for rows in found]

    def close(self) -> None:
        """Free the context; the model stays the caller's."""
        self._context.close()
