"""The denoiser: sequences of titles in, noise log-odds out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.errors import ModelError, OptionError, OutOfMemoryError
from llm4dsr_cli.model.base_model import find_base
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.merged_model import WEIGHTS, Part, cached_runtime, runtime_model
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.prompts import Prompter
from llm4dsr_cli.model.registry import Registry, find_denoiser
from llm4dsr_cli.scores import Scores, canonical
from llm4dsr_cli.windows import overlapping_windows

# Larger micro-batches are no faster: attention runs over all of a batch's cells.
BATCH_TOKENS = 512
# llama.cpp crashes the process where it cannot start so many.
MOST_THREADS = 512


class Denoiser:
    """Scores sequences with a language model and its adapter; see ``Denoiser.load``.

    Attributes:
        metadata: what the denoiser's file says of it.
        path: that file.
        sha256: its hash.
        runtime: the merged model that runs.
    """

    def __init__(
        self,
        path: Path,
        metadata: DenoiserMetadata,
        runtime: Path,
        *,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.runtime = runtime
        self.sha256 = file_sha256(path)
        self._model = Model(runtime, gpu_layers=gpu_layers)
        self._prompter = Prompter(metadata.form, self._model.tokenize, metadata.max_title_tokens)
        self._engine = Engine(
            self._model,
            causal=metadata.form.causal,
            batch_tokens=max(BATCH_TOKENS, self._prompter.max_tokens(metadata.max_window)),
            threads=threads,
        )

    @classmethod
    def load(
        cls,
        model: str | None = None,
        *,
        base: str | None = None,
        weights: str = "auto",
        threads: int | None = None,
        gpu_layers: int | None = None,
        offline: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> Denoiser:
        """Find a denoiser and its base model, merge them on first use, and make ready to score.

        Args:
            model: name of a denoiser in the registry, or the path of a denoiser GGUF; None is the one that ships.
            base: base model by name, path or ``hf:`` reference; None takes the one that the denoiser names.
            weights: type of the runtime weights, "auto", "bf16", "q8_0" or "q4_0".
            threads: CPU threads, 1 to 512; None is as many as other processes leave cores free, at every moment.
            gpu_layers: layers to keep on a GPU, more than there are for all; None is all of them when llama.cpp has a
                GPU back end.
            offline: never pull a base model.
            say: told in one line each what takes time.

        Raises:
            OptionError: an unknown weight type, or a number out of range.
            ModelError: model or base is missing, damaged, or they do not fit together.
            OutputError: the cache folder cannot be written.
        """
        check_options(weights, threads, gpu_layers)
        path, metadata, is_adapter = read_denoiser(model)
        runtime = path
        if is_adapter:
            runtime = find_runtime(path, metadata, base=base, weights=weights, offline=offline, say=say)
        try:
            return cls(path, metadata, runtime, threads=threads, gpu_layers=gpu_layers)
        except ModelError as error:
            if runtime == path or isinstance(error, OutOfMemoryError):
                raise
            remedy = "delete this file, which the next run makes again"
            raise ModelError(error.what, where=str(runtime), remedy=remedy) from None

    @property
    def name(self) -> str:
        """What its file calls it."""
        return self.metadata.name

    def threshold(self, false_edit_rate: float) -> float:
        """``DenoiserMetadata.threshold``."""
        return self.metadata.threshold(false_edit_rate)

    def description(self) -> dict[str, Any]:
        """Name, hashes, base model and the merged model that runs, for reports."""
        return {**self.metadata.description(self.sha256), "runtime": self.runtime.name}

    def score(self, sequences: Iterable[Sequence[str]]) -> list[Scores]:
        """Noise log-odds of every item of every sequence.

        A sequence longer than the largest trained window is read in overlapping windows; each item is judged by the
        window that sees most around it.

        Args:
            sequences: item titles, oldest first; sequences may be empty.

        Returns:
            One float32 array of shape (n_items,) for each sequence: log(p / (1 - p)) of its noise probability p, as
            ``scores.canonical`` rounds them.
        """
        sequences = list(sequences)
        results = [np.empty(len(titles), dtype=np.float32) for titles in sequences]
        windows = [
            (number, window)
            for number, titles in enumerate(sequences)
            for window in overlapping_windows(len(titles), self.metadata.max_window)
        ]
        texts = [tuple(sequences[number][window.start : window.end]) for number, window in windows]
        # Once each: a long sequence in which one item is replaced is the same in all windows but two.
        different = list(dict.fromkeys(texts))
        answers = self._engine.log_probabilities(self._requests(different), self._prompter.answers)
        found = {text: rows[:, 0] - rows[:, 1] for text, rows in zip(different, answers, strict=True)}
        for (number, window), text in zip(windows, texts, strict=True):
            judged = slice(window.judge_from, window.judge_to)
            log_odds = found[text]
            results[number][judged] = log_odds[window.judge_from - window.start : window.judge_to - window.start]
        return [canonical(log_odds) for log_odds in results]

    def _requests(self, windows: Iterable[Sequence[str]]) -> Iterator[Request]:
        for titles in windows:
            prompt = self._prompter.prompt(titles)
            yield Request(prompt.tokens, prompt.probes)

    def close(self) -> None:
        """Free the context and the model."""
        self._engine.close()
        self._model.close()

    def __enter__(self) -> Denoiser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def read_denoiser(model: str | None) -> tuple[Path, DenoiserMetadata, bool]:
    """A denoiser's file, what it says of itself, and whether it is an adapter, that takes a base model.

    Raises:
        ModelError: it is missing, damaged or no denoiser.
    """
    path = find_denoiser(model, Registry.load())
    reader = open_gguf(path)
    metadata = DenoiserMetadata.read(reader, path)
    kind = reader.fields.get("general.type")
    return path, metadata, kind is not None and kind.contents() == "adapter"


def find_runtime(
    path: Path,
    metadata: DenoiserMetadata,
    *,
    base: str | None,
    weights: str,
    offline: bool,
    say: Callable[[str], None],
    part: Part = "detector",
) -> Path:
    """The merged model of one part of a denoiser's adapter, made and kept on first use.

    Raises:
        ModelError: adapter or base cannot be used.
        OutputError: the cache folder cannot be written.
    """
    if base is None and (found := cached_runtime(path, metadata, weights, part)) is not None:
        return found
    base_path = _find_base(base, metadata, path, Registry.load(), offline, say)
    return runtime_model(path, metadata, base_path, weights=weights, say=say, part=part)


def check_options(weights: str, threads: int | None, gpu_layers: int | None) -> None:
    """Raises OptionError for an unknown weight type or a number out of range, before anything is loaded."""
    if weights not in WEIGHTS:
        raise OptionError(f"--weights {weights}: no such type", remedy=f"choose {', '.join(WEIGHTS)}")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise OptionError(
            f"`threads` is {threads}: it goes from 1 to {MOST_THREADS}", remedy="leave it out, or give one of these"
        )
    if gpu_layers is not None and gpu_layers < 0:
        raise OptionError(f"`gpu_layers` is {gpu_layers}: it begins at 0", remedy="leave it out for all layers")


def _find_base(
    base: str | None,
    metadata: DenoiserMetadata,
    denoiser: Path,
    registry: Registry,
    offline: bool,
    say: Callable[[str], None],
) -> Path:
    """The file of the base model that a denoiser was trained on; pulled when need be."""
    reference = base or metadata.base_name
    if not (base or reference in registry.bases or reference.startswith("hf:") or Path(reference).is_file()):
        raise ModelError(
            f"its base model, {reference}, is not in the registry",
            where=str(denoiser),
            remedy="give its file with --base",
        )
    path = find_base(reference, registry=registry, offline=offline, say=say)
    found = file_sha256(path)
    if found != metadata.base_sha256:
        again = "leave out --base, or give the one it was trained on" if base else "give that one with --base"
        raise ModelError(
            f"it was trained on {metadata.base_name} (sha256 {metadata.base_sha256[:12]}...), "
            f"and {path} is another base model ({found[:12]}...)",
            where=str(denoiser),
            remedy=again,
        )
    return path
