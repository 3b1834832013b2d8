"""The denoiser: sequences of titles in, noise log-odds out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.closing import Closing
from llm4dsr_cli.errors import ModelError, OptionError, OutOfMemoryError
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.known_windows import KnownWindows
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.loading import check_options, find_runtime, no_numbers, read_denoiser
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.prompts import Prompt, Prompter
from llm4dsr_cli.model.turns import Turns
from llm4dsr_cli.scores import Scores, canonical
from llm4dsr_cli.titles import CutTitles
from llm4dsr_cli.windows import overlapping_windows

if TYPE_CHECKING:
    from llm4dsr_cli.model.torch_engine import TorchEngine

# Larger micro-batches are no faster: attention runs over all of a batch's cells.
BATCH_TOKENS = 512
# What a run over a file has for the scores of windows that may stand again: some 150,000 of them.
KNOWN_BYTES = 64 << 20


class _WindowOf(NamedTuple):
    """A window of sequence ``number``: its different titles, which places it judges, and which title stands at each."""

    number: int
    judged: slice
    titles: tuple[str, ...]
    items: NDArray[np.int64]


class Denoiser(Closing):
    """Scores sequences with a language model and its adapter; see ``Denoiser.load``.

    Attributes:
        metadata: what the denoiser's file says of it.
        path: that file.
        sha256: its hash.
        runtime: the merged model that runs.
        engine: "llama" or "torch".
    """

    def __init__(
        self,
        path: str | Path,
        metadata: DenoiserMetadata,
        runtime: str | Path,
        *,
        engine: str = "llama",
        threads: int | None = None,
        gpu_layers: int | None = None,
        known_bytes: int = 0,
    ) -> None:
        self.path = Path(path)
        self.metadata = metadata
        self.runtime = Path(runtime)
        self.engine = engine
        self.sha256 = file_sha256(path)
        self._turns = Turns(self.path)
        self._known = KnownWindows(known_bytes) if known_bytes else None
        with ExitStack() as loaded:
            model = loaded.enter_context(Model(runtime, gpu_layers=gpu_layers, vocab_only=engine == "torch"))
            self._prompter = Prompter(metadata.form, model.tokenize, metadata.max_title_tokens)
            self._engine = self._start(model, threads)
            loaded.enter_context(self._engine)
            self._loaded = loaded.pop_all()

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        base: str | Path | None = None,
        weights: str = "auto",
        engine: str = "llama",
        threads: int | None = None,
        gpu_layers: int | None = None,
        offline: bool = False,
        known_bytes: int = 0,
        say: Callable[[str], None] = lambda line: None,
    ) -> Denoiser:
        """Find a denoiser and its base model, merge them on first use, and make ready to score.

        Args:
            model: name of a denoiser in the registry, or the path of a denoiser GGUF (a ``Path`` is never a name); None
                is the one that ships.
            base: base model by name, path or ``hf:`` reference; None takes the one that the denoiser names.
            weights: type of the runtime weights, "auto", "bf16", "q8_0" or "q4_0".
            engine: "llama" (llama.cpp), or "torch", which takes the extra ``finetune``, and a GPU where there is one.
            threads: CPU threads, 1 to 512; None is as many as other processes leave cores free, at every moment, and
                with torch its own choice.
            gpu_layers: layers to keep on a GPU, more than there are for all; None is all of them when llama.cpp has a
                GPU back end.
            offline: never pull a base model.
            known_bytes: a window that was judged before is not read again, as long as so much memory holds its score;
                0 reads every one.
            say: told in one line each what takes time.

        Raises:
            OptionError: an unknown weight type or engine, or a number out of range.
            MissingExtraError: torch or transformers is not installed, and the engine is torch.
            ModelError: model or base is missing, damaged, or they do not fit together.
            OutputError: the cache folder cannot be written.
        """
        check_options(weights, threads, gpu_layers, engine)
        if engine == "torch" and weights == "auto":
            weights = "bf16"  # there is nothing to be timed
        path, metadata, is_adapter = read_denoiser(model)
        runtime = path
        if is_adapter:
            runtime = find_runtime(
                path,
                metadata,
                base=base,
                weights=weights,
                offline=offline,
                say=say,
                threads=threads,
                gpu_layers=gpu_layers,
            )
        try:
            return cls(
                path,
                metadata,
                runtime,
                engine=engine,
                threads=threads,
                gpu_layers=gpu_layers,
                known_bytes=known_bytes,
            )
        except ModelError as error:
            # Not every error is about the merged file.
            if runtime == path or error.where is None or isinstance(error, OutOfMemoryError):
                raise
            remedy = "delete this file, which the next run makes again"
            raise ModelError(error.what, where=str(runtime), remedy=remedy) from None

    def _start(self, model: Model, threads: int | None) -> Engine | TorchEngine:
        causal = self.metadata.form.causal
        if self.engine == "torch":
            from llm4dsr_cli.model.torch_engine import TorchEngine

            return TorchEngine(self.runtime, self.metadata.base_architecture, causal=causal, threads=threads)
        batch_tokens = max(BATCH_TOKENS, self._prompter.max_tokens(self.metadata.max_window))
        return Engine(model, causal=causal, batch_tokens=batch_tokens, threads=threads)

    @property
    def name(self) -> str:
        """What its file calls it."""
        return self.metadata.name

    @property
    def cut_titles(self) -> CutTitles:
        """How many titles it has read so far, and how many of them only up to where it cuts them."""
        return self._prompter.cut_titles

    def threshold(self, false_edit_rate: float) -> float:
        """``DenoiserMetadata.threshold``."""
        return self.metadata.threshold(false_edit_rate)

    def description(self) -> dict[str, Any]:
        """Name, hashes, base model and the merged model that runs, for reports."""
        by = {"engine": self.engine} if self.engine != "llama" else {}
        return {**self.metadata.description(self.sha256), "runtime": self.runtime.name, **by}

    def score(self, sequences: Iterable[Iterable[str]]) -> list[Scores]:
        """Noise log-odds of every item of every sequence.

        A sequence longer than the largest trained window is read in overlapping windows; each item is judged by the
        window that sees most around it. Titles that are the same to the model are read once in a window, and get one
        score: an item that stands twice does not vouch for itself. Several threads may call it; they are served one
        after the other.

        Args:
            sequences: item titles, oldest first; sequences may be empty.

        Returns:
            One float32 array of shape (n_items,) for each sequence: log(p / (1 - p)) of its noise probability p, as
            ``scores.canonical`` rounds them.

        Raises:
            OptionError: something is no list of titles, or no title; it names the place, counted from 1.
            ModelError: the model gives no numbers; it is closed; or this process was forked from the one that loaded
                it.
        """
        checked = _checked(sequences)
        with self._turns.one():
            return self._score(checked)

    def _score(self, sequences: list[tuple[str, ...]]) -> list[Scores]:
        results = [np.empty(len(titles), dtype=np.float32) for titles in sequences]
        windows = self._windows(sequences)
        # Once each: a long sequence in which one item is replaced is the same in all windows but two.
        prompts = {titles: self._prompter.prompt(titles) for titles in dict.fromkeys(one.titles for one in windows)}
        found = self._found(windows, prompts)
        unread = [titles for titles in prompts if titles not in found]
        requests = (Request(prompts[titles].tokens, prompts[titles].probes) for titles in unread)
        for titles, answers in zip(
            unread, self._engine.log_probabilities(requests, self._prompter.answers), strict=True
        ):
            found[titles] = canonical(self._log_odds(answers))
        for one in windows:
            results[one.number][one.judged] = found[one.titles][one.items]
        self._keep(windows, prompts, results)
        return results

    def recall(self, sequences: Iterable[Iterable[str]], log_odds: Iterable[Scores]) -> None:
        """Know the windows of sequences that an earlier run has scored, as if ``score`` had just given these log-odds.

        Where scoring goes on afterwards, it reads what that run would have read.

        Args:
            sequences: as for ``score``.
            log_odds: what it gave, shape (n_items,) each.
        """
        checked = _checked(sequences)
        with self._turns.one():
            windows = self._windows(checked)
            prompts = {titles: self._prompter.prompt(titles) for titles in dict.fromkeys(one.titles for one in windows)}
            self._keep(windows, prompts, list(log_odds))

    def _windows(self, sequences: list[tuple[str, ...]]) -> list[_WindowOf]:
        windows = []
        for number, titles in enumerate(sequences):
            for window in overlapping_windows(len(titles), self.metadata.max_window):
                different, item_of = self._prompter.different(titles[window.start : window.end])
                items = item_of[window.judge_from - window.start : window.judge_to - window.start]
                judged = slice(window.judge_from, window.judge_to)
                windows.append(_WindowOf(number, judged, tuple(different), items))
        return windows

    def _found(
        self, windows: list[_WindowOf], prompts: Mapping[tuple[str, ...], Prompt]
    ) -> dict[tuple[str, ...], Scores]:
        """Log-odds of the windows that need not be read, by their titles."""
        if self._known is None:
            return {}
        found: dict[tuple[str, ...], Scores] = {}
        unknown = set()
        for one in windows:
            known = self._known.find(prompts[one.titles].tokens, one.items)
            if known is None:
                unknown.add(one.titles)
            else:
                found[one.titles] = known
        return {titles: known for titles, known in found.items() if titles not in unknown}

    def _keep(
        self, windows: list[_WindowOf], prompts: Mapping[tuple[str, ...], Prompt], log_odds: Sequence[Scores]
    ) -> None:
        if self._known is not None:
            for one in windows:
                judged = log_odds[one.number][one.judged]
                self._known.keep(prompts[one.titles].tokens, len(one.titles), one.items, judged)

    def _log_odds(self, answers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-odds, shape (n_items,), of log-probabilities of the two answers, shape (n_items, 2)."""
        with np.errstate(invalid="ignore"):
            log_odds = answers[:, 0] - answers[:, 1]
        if not np.isfinite(log_odds).all():
            raise no_numbers(self.path)
        return log_odds

    def close(self) -> None:
        """Free the context and the model, when no thread scores any more; once closed, it stays closed."""
        if self._turns.end():
            self._loaded.close()


def _checked(sequences: Iterable[Iterable[str]]) -> list[tuple[str, ...]]:
    """Sequences of titles; raises OptionError where they are not."""
    remedy = 'give sequences of titles, such as [["Alien", "Aliens"]]'
    if isinstance(sequences, (str, bytes, Mapping)):
        raise OptionError(f"{sequences!r:.40} is no list of sequences", remedy=remedy)
    checked = []
    for number, titles in enumerate(sequences, 1):
        if isinstance(titles, (str, bytes, Mapping)) or not isinstance(titles, Iterable):
            raise OptionError(f"sequence {number} is {titles!r:.40}, no list of titles", remedy=remedy)
        checked.append(tuple(titles))
        for place, title in enumerate(checked[-1], 1):
            if not isinstance(title, str):
                raise OptionError(
                    f"sequence {number}, item {place} is {title!r:.40}, no title", remedy="give it a text"
                )
    return checked
