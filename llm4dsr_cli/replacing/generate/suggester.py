"""The suggester: names titles of a catalog that go with others, with the second adapter of a denoiser's file."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from llm4dsr_cli.cache import cache_folder, cache_subfolder, mark_used, tidy
from llm4dsr_cli.closing import Closing
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.branching import Branching
from llm4dsr_cli.model.llama import Model, Tokens
from llm4dsr_cli.model.loading import check_options, find_runtime, no_numbers, read_denoiser
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.prompts import Prompter
from llm4dsr_cli.model.turns import Turns
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.generate.beam_search import Beam, BeamSearch
from llm4dsr_cli.replacing.generate.trie import Trie
from llm4dsr_cli.replacing.proposals import Gaps, Proposal

BATCH_TOKENS = 512
# Room for the prompts of some 25 windows and their beams: fewer make small batches, more make long rows of cells.
CELLS = 4096
# Beams a window: more find hardly any better titles, and cost in proportion (docs/experiments.md).
WIDTH = 4


class Suggester(Closing):
    """Continues lists of titles by titles of a catalog; see ``Suggester.load``. Threads are served one after the other.

    Attributes:
        metadata: what the denoiser's file says of it.
        runtime: the merged model that runs.
    """

    def __init__(
        self,
        metadata: DenoiserMetadata,
        runtime: str | Path,
        *,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> None:
        self.metadata = metadata
        self.runtime = Path(runtime)
        self._turns = Turns(self.runtime)
        with contextlib.ExitStack() as loaded:
            model = loaded.enter_context(Model(runtime, gpu_layers=gpu_layers))
            self._prompter = Prompter(metadata.form, model.tokenize, metadata.max_title_tokens)
            longest = self._prompter.max_tokens(metadata.max_window)
            branching = Branching(
                model, cells=max(CELLS, 8 * longest), batch_tokens=max(BATCH_TOKENS, longest), threads=threads
            )
            self._branching = loaded.enter_context(branching)
            self._loaded = loaded.pop_all()

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        base: str | Path | None = None,
        weights: str = "auto",
        threads: int | None = None,
        gpu_layers: int | None = None,
        offline: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> Suggester:
        """Find a denoiser and its base model, and merge its suggestions with it on first use.

        Args and errors are those of ``Denoiser.load``.

        Raises:
            ModelError: the denoiser has no suggestions, too.
        """
        check_options(weights, threads, gpu_layers)
        path, metadata, _ = read_denoiser(model)
        if metadata.suggestion_alpha is None:
            raise ModelError(
                "this denoiser suggests no titles",
                where=str(path),
                remedy="use `proposer` counts, or train it with: llm4dsr finetune --train suggester",
            )
        runtime = find_runtime(
            path,
            metadata,
            base=base,
            weights=weights,
            offline=offline,
            say=say,
            part="suggester",
            threads=threads,
            gpu_layers=gpu_layers,
        )
        return cls(metadata, runtime, threads=threads, gpu_layers=gpu_layers)

    def trie(self, titles: Sequence[str]) -> Trie:
        """The trie of a catalog's titles, as the model reads them; made once for each catalog, and kept.

        Raises:
            OutputError: the cache folder cannot be written.
        """
        key = hashlib.sha256(f"1/{self.metadata.base_sha256}/{self.metadata.max_title_tokens}".encode())
        for title in titles:
            key.update(f"/{len(title)}/{title}".encode("utf-8", "surrogatepass"))
        folder = cache_folder() / "tries"
        path = folder / f"{key.hexdigest()[:24]}.npz"
        with contextlib.suppress(OSError, ValueError):  # not there, or damaged: made again
            trie = Trie.load(path)
            mark_used(path)
            return trie
        with self._turns.one():
            trie = Trie(self._prompter.line(title) for title in titles)
        cache_subfolder("tries")
        trie.save(path)
        tidy("tries")
        return trie

    def tokens(self, title: str) -> Tokens:
        """A title as the model reads it: token ids, shape (n_tokens,), the ones that end it among them."""
        with self._turns.one():
            return self._prompter.line(title)

    def continuations(
        self,
        trie: Trie,
        windows: Sequence[Sequence[str]],
        n_titles: Sequence[int],
        excluded: Sequence[Sequence[int]],
        width: int = WIDTH,
    ) -> list[list[Beam]]:
        """The most probable titles to come after each window's, by beam search over the trie.

        Args:
            windows: item titles, oldest first; at most as many as the model was trained on.
            n_titles: how many titles each window's answers have.
            excluded: rows of the trie that a window's answers may not hold.
            width: beams, and answers, a window.

        Returns:
            For each window its answers, the best mean log-probability first.

        Raises:
            ModelError: the model gives no numbers; it is closed; or this process was forked from the one that loaded
                it.
        """
        with self._turns.one():
            return self._continuations(trie, windows, n_titles, excluded, width)

    def _continuations(
        self,
        trie: Trie,
        windows: Sequence[Sequence[str]],
        n_titles: Sequence[int],
        excluded: Sequence[Sequence[int]],
        width: int,
    ) -> list[list[Beam]]:
        prompts = [self._prompter.prompt(titles).tokens for titles in windows]
        room = [len(prompt) + width * n * trie.rows.shape[1] for prompt, n in zip(prompts, n_titles, strict=True)]
        answers: list[list[Beam]] = []
        at = 0
        while at < len(prompts):
            until = at + 1
            most = self._branching.max_branches // width
            while until < min(len(prompts), at + most) and sum(room[at : until + 1]) <= self._branching.cells:
                until += 1
            searches = [BeamSearch(trie, n_titles[i], width, excluded[i]) for i in range(at, until)]
            self._run(prompts[at:until], searches)
            answers += [search.answers for search in searches]
            at = until
        return answers

    def _run(self, prompts: list[Tokens], searches: list[BeamSearch]) -> None:
        rows = self._branching.start(prompts)
        while len(rows):
            if np.isnan(rows[:, 0]).any():  # one NaN among the logits makes the whole row NaN
                raise no_numbers(self.runtime)
            parents: list[int] = []
            tokens: list[int] = []
            first = 0
            for search in searches:
                n = len(search.beams)
                for extension in search.extend(rows[first : first + n]):
                    parents.append(first + extension.parent)
                    tokens.append(extension.token)
                first += n
            rows = self._branching.extend(parents, tokens) if tokens else rows[:0]

    def close(self) -> None:
        """Free the context and the model, when no thread uses them any more; once closed, it stays closed."""
        if self._turns.end():
            self._loaded.close()


class GeneratingProposer:
    """Proposes what the suggester names."""

    name = "generate"
    score_name = "log_probability"

    def __init__(self, suggester: Suggester, candidates: Candidates) -> None:
        self._suggester = suggester
        self._trie = suggester.trie(candidates.titles)

    def propose(self, windows: Sequence[Gaps], n: int) -> list[list[Proposal]]:
        """For each window at most ``n`` proposals, best first; a score is a title's mean log-probability a token."""
        found = self._suggester.continuations(
            self._trie,
            [window.titles for window in windows],
            [window.n_gaps for window in windows],
            [np.unique(self._trie.row_of[list(window.excluded)]).tolist() for window in windows],
            max(WIDTH, n),
        )
        return [
            [Proposal(tuple(self._trie.title_of[list(beam.rows)].tolist()), beam.means) for beam in beams[:n]]
            for beams in found
        ]
