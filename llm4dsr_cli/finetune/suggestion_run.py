"""A training in suggestions, from sequences to a second adapter in a denoiser's file.

The adapter is a second one, beside the detector's, over all layers of the base: the detector's few layers no longer
know how to name things (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.finetune.adapter import Adapter, read_adapters, write_adapters
from llm4dsr_cli.finetune.data import Domain, Sampler
from llm4dsr_cli.finetune.export import to_gguf
from llm4dsr_cli.finetune.job import Job
from llm4dsr_cli.finetune.lora import lora_state
from llm4dsr_cli.finetune.outputs import Outputs
from llm4dsr_cli.finetune.settings import Settings, SuggestionSettings
from llm4dsr_cli.finetune.start import Start, window_seed
from llm4dsr_cli.finetune.tasks import Row, Suggesting
from llm4dsr_cli.finetune.trainer import Progress
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.merged_model import Part
from llm4dsr_cli.model.metadata import DenoiserMetadata

# Share of the windows cut to a random length, as for the detector.
SHORTEN = 0.25


def add_suggestions(job: Job, denoiser: Path, settings: SuggestionSettings) -> list[Row]:
    """Train a denoiser's suggestions, and write it with them; its detector stays as it is, to the bit.

    Where the start has suggestions, they are trained on, in their own shape. What is written are suggestions that name
    the titles of held-out users no worse than the first ones did, or else the start's own, or none.

    Args:
        denoiser: the adapter GGUF whose detector is kept; it may be the one that the job writes.

    Returns:
        A row for each validation: step, windows, seconds, loss, learning_rate, held_out_loss (nats a token).

    Raises:
        OptionError: the run to resume had other settings or data.
        ModelError: denoiser or base cannot be used.
        KeyboardInterrupt: after Ctrl-C, with the checkpoint saved.
    """
    metadata = DenoiserMetadata.read(open_gguf(denoiser), denoiser)
    detector, _ = read_adapters(denoiser)
    known = job.start.suggester
    if known is not None:
        settings = replace(settings, rank=known.rank, alpha=known.alpha)
    sampler = partial(Sampler, max_window=metadata.max_window, rates=(0.0,), shorten=SHORTEN)
    train = sampler(job.split.train, seed=4 * window_seed(settings.seed, job.start.denoiser if known else None))
    held_out = sampler(job.split.validation, seed=4 * settings.seed + 1)
    with job.adapted(
        settings,
        known,
        form=metadata.form,
        max_title_tokens=metadata.max_title_tokens,
        longest_window=metadata.max_window,
    ) as (model, prompter, shape):
        lessons = [held_out.draw_titles(number) for number in range(settings.validation_windows)]
        task = Suggesting(prompter, train, lessons)
        trainer = job.trainer("suggester", model, task, settings, job.outputs.suggestion_checkpoint)
        job.say(f"learning to suggest titles: {'on from what it knows' if known else 'from the base model alone'}")
        progress = trainer.run()
        learned: Adapter | None = to_gguf(lora_state(model.backbone), shape, settings.alpha)
    summary = {"windows": progress.windows, "tokens": progress.tokens, "rank": settings.rank}
    training = {**metadata.training, "suggestions": {**summary, "validation": trainer.chosen}}
    if trainer.chosen["step"] == 0:
        job.say(f"the suggestions did not get better: {'those of the start are kept' if known else 'there are none'}")
        learned, training = known, metadata.training
    output = job.outputs.denoiser
    write_adapters(output, replace(metadata, name=output.stem, training=training), detector, learned)
    return progress.history


def finetune_suggestions(
    domains: Sequence[Domain],
    output: Path,
    start: Start,
    settings: Settings,
    suggestions: SuggestionSettings,
    *,
    resume: bool = False,
    device: str = "auto",
    compile_layers: bool | None = None,
    offline: bool = False,
    say: Callable[[str], None] = lambda line: None,
    on_step: Callable[[Part, Progress], None] = lambda part, progress: None,
    on_validation: Callable[[Part, Row], None] = lambda part, row: None,
) -> list[Row]:
    """Train a denoiser's suggestions alone; its detector and calibration stay as they are.

    Args:
        start: the denoiser.
        settings: of these, the shares of the users that are held out.
        others: as for ``finetune``.

    Returns:
        A row for each validation, as ``add_suggestions`` gives them.

    Raises:
        OptionError: the start is no denoiser, an unfinished run is in the way, or there is none to resume.
    """
    if start.denoiser is None:
        raise OptionError("suggestions alone take a denoiser to add them to", remedy="name it with `init`")
    outputs = Outputs(output)
    outputs.check([outputs.suggestion_checkpoint], resume)
    job = Job.begin(
        domains,
        outputs,
        start,
        settings,
        offline,
        resume=resume,
        device=device,
        compile_layers=compile_layers,
        say=say,
        on_step=on_step,
        on_validation=on_validation,
    )
    outputs.make_folder()
    return add_suggestions(job, start.denoiser, suggestions)
