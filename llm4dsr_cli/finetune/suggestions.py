"""A denoiser's suggestions: a second adapter in its file, trained to go on with the titles of a sequence.

It is over all layers of the base: the detector's few layers no longer know how to name things (docs/experiments.md).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from llm4dsr_cli.finetune.adapter import read_adapters, write_adapters
from llm4dsr_cli.finetune.data import Sampler
from llm4dsr_cli.finetune.job import Job
from llm4dsr_cli.finetune.settings import SuggestionSettings
from llm4dsr_cli.finetune.start import window_seed
from llm4dsr_cli.finetune.tasks import Row, Suggesting
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.metadata import DenoiserMetadata

# Share of the windows cut to a random length, as for the detector.
SHORTEN = 0.25


def add_suggestions(job: Job, denoiser: Path, settings: SuggestionSettings) -> list[Row]:
    """Train a denoiser's suggestions, and write it with them; its detector stays as it is, to the bit.

    Suggestions of the start are trained on, in their own shape. If they name the titles of held-out users no better for
    it, the start's own are written, or none.

    Args:
        denoiser: the adapter GGUF whose detector is kept; it may be the one that the job writes.

    Returns:
        A row for each validation: step, windows, seconds, loss, learning_rate, held_out_loss (nats a token).

    Raises:
        OptionError, ModelError, KeyboardInterrupt: see ``Job.train``.
    """
    metadata = DenoiserMetadata.read(open_gguf(denoiser), denoiser)
    detector, _ = read_adapters(denoiser)
    known = job.start.suggester
    if known is not None:
        settings = replace(settings, rank=known.rank, alpha=known.alpha)
    sampler = partial(Sampler, max_window=metadata.max_window, rates=(0.0,), shorten=SHORTEN)
    train = sampler(job.split.train, seed=4 * window_seed(settings.seed, job.start.denoiser if known else None))
    held_out = sampler(job.split.validation, seed=4 * settings.seed + 1)
    lessons = [held_out.draw_titles(number) for number in range(settings.validation_windows)]
    trained = job.train(
        "suggester",
        settings,
        known,
        lambda prompter: Suggesting(prompter, train, lessons, warm=True),
        max_title_tokens=metadata.max_title_tokens,
        longest_window=metadata.max_window,
        beginning=f"learning to suggest titles: {'on from what it knows' if known else 'from the base model alone'}",
    )
    progress, suggester, training = trained.progress, known, metadata.training
    if trained.chosen["step"]:
        summary = {"windows": progress.windows, "tokens": progress.tokens, "rank": settings.rank}
        suggester, training = trained.after, {**training, "suggestions": {**summary, "validation": trained.chosen}}
    else:
        job.say(f"the suggestions did not get better: {'those of the start are kept' if known else 'there are none'}")
    output = job.outputs.denoiser
    write_adapters(output, replace(metadata, name=output.stem, training=training), detector, suggester)
    return progress.history
