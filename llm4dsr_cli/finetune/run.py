"""A fine-tuning run from sequences to a calibrated denoiser file."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.finetune.adapter import Adapter, write_adapters
from llm4dsr_cli.finetune.comparison import AFTER, BEFORE, Line, Power, baseline_scores, compare, judged, power
from llm4dsr_cli.finetune.data import Domain, LabelledWindow, Sampler
from llm4dsr_cli.finetune.export import to_gguf
from llm4dsr_cli.finetune.job import Job
from llm4dsr_cli.finetune.lora import lora_state, save_peft
from llm4dsr_cli.finetune.outputs import Outputs
from llm4dsr_cli.finetune.settings import Settings, SuggestionSettings
from llm4dsr_cli.finetune.start import Start, window_seed
from llm4dsr_cli.finetune.suggestion_run import add_suggestions
from llm4dsr_cli.finetune.tasks import Detecting, Row
from llm4dsr_cli.finetune.trainer import Progress
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.merged_model import Part, merge
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT
from llm4dsr_cli.thresholds import Calibration

# Validation and calibration mimic data to be cleaned, where noise is rarer than in training.
HELD_OUT_RATE = 0.1
# Where held-out sequences are few, each may be measured with so many draws of noise.
DRAWS = 4
# The stream of random numbers that test windows are drawn with.
TEST_STREAM = 3
# The false-edit rate at which a run tells what its gate finds: the default of the commands.
RATE = 0.01


@dataclass(frozen=True)
class Finetuned:
    """What a run brought.

    Attributes:
        history: a row for each validation: step, windows, seconds, loss, learning_rate, auroc, average_precision, and
            with several domains auroc_NAME and average_precision_NAME. The first row is from before the training.
        chosen: the row of the weights that were exported.
        comparison: before, after and baselines on the test users' windows.
        power: what the gate does to them at ``RATE``; None when the calibration is too small for that rate.
        baselines: the baselines on the validation windows, for the training curve.
        suggestions: a row for each validation of the training in suggestions (``add_suggestions``); none without one.
    """

    history: list[Row]
    chosen: Row
    comparison: list[Line]
    power: Power | None
    baselines: list[Line]
    suggestions: list[Row]


@dataclass(frozen=True)
class Trained:
    """A detector, the weights that it had before, and how it came about."""

    after: Adapter
    before: Adapter
    progress: Progress
    chosen: Row


def finetune(
    domains: Sequence[Domain],
    output: Path,
    start: Start,
    settings: Settings,
    suggestions: SuggestionSettings | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    compile_layers: bool | None = None,
    offline: bool = False,
    licence: str = "",
    say: Callable[[str], None] = lambda line: None,
    on_step: Callable[[Part, Progress], None] = lambda part, progress: None,
    on_validation: Callable[[Part, Row], None] = lambda part, row: None,
) -> Finetuned:
    """Train, export, calibrate and measure a denoiser; then train its suggestions, if there are settings for that.

    A user is held out by a hash of its name alone: a denoiser that starts from another one, trained on the same data,
    is still validated, calibrated and measured on users that neither has seen.

    Args:
        domains: the data, one domain for each catalog.
        output: the denoiser GGUF to write; ``OUTPUT.run/`` beside it holds checkpoint, history and PEFT folder.
        start: base model and first weights, by ``find_start``.
        settings: of this start, by ``Start.settings``.
        suggestions: settings of the training in suggestions; None trains none, and keeps those of the start.
        resume: go on from the checkpoint in ``OUTPUT.run/``.
        device: "auto", "cpu", "cuda" or "mps".
        compile_layers: compile the model's layers with torch.compile, which takes a C++ compiler and about a minute;
            None does it on a CPU where there is a compiler.
        offline: never pull a base model.
        licence: of the denoiser, for its metadata.
        say: told in one line each what happens.
        on_step, on_validation: told which part is trained ("detector", then "suggester"), and after each step its
            progress, after each validation its row of the history.

    Raises:
        OptionError: an unfinished run is in the way, the data are too few, or start and base contradict each other.
        ModelError: base or start cannot be used, or the training brought no weights that can.
        KeyboardInterrupt: after Ctrl-C, with the checkpoint saved.
    """
    outputs = Outputs(output)
    outputs.check([outputs.checkpoint, outputs.suggestion_checkpoint], resume)
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
    _check_titles(domains, settings)
    split, seed = job.split, window_seed(settings.seed, start.denoiser)
    train = _sampler(split.train, replace(settings, seed=seed), settings.rates, settings.shorten, stream=0)
    validation = held_out(split.validation, settings, settings.validation_windows, draws=DRAWS, stream=1)
    # Each sequence calibrates once, since a quantile of repeated items would promise more than it can keep.
    calibration = held_out(split.calibration, settings, settings.calibration_windows, draws=1, stream=2)
    test = held_out(split.test, settings, settings.test_windows, draws=DRAWS, stream=TEST_STREAM)
    trained = _train_detector(job, settings, train, validation)
    metadata = DenoiserMetadata(
        name=output.stem,
        form=DEFAULT_FORMAT,
        max_window=train.longest_window,
        max_title_tokens=settings.max_title_tokens,
        base_name=job.base.name if start.base.endswith(".gguf") and not start.base.startswith("hf:") else start.base,
        base_sha256=file_sha256(job.base),
        base_architecture=job.architecture,
        licence=licence,
        training=_summary(split.train, start, settings, trained),
        layers=settings.layers,
    )
    say(f"calibrating on {len(calibration):,} windows of other users")
    with TemporaryDirectory(dir=outputs.folder) as folder:
        # Calibrated and measured by the engine that will serve it, not by the model in training.
        adapter, merged = Path(folder, "adapter.gguf"), Path(folder, "merged.gguf")
        write_adapters(adapter, metadata, trained.after)
        belonging, after = _scores(adapter, job.base, merged, [calibration, test])
        fitted = Calibration.fit(*_belonging(belonging, calibration))
        # Suggestions that are there stay, for a run that trains none, or that is interrupted while it does.
        write_adapters(output, replace(metadata, calibration=fitted), trained.after, start.suggester)

        say(f"comparing on {len(test):,} windows of users that nothing was chosen by")
        if start.denoiser is None:
            write_adapters(adapter, metadata, trained.before)
        (before,) = _scores(start.denoiser or adapter, job.base, merged, [test])
    validation = validation[: trained.progress.validation_windows]
    counted = baseline_scores(split.train, [*test, *validation], say=say)
    n = len(test)
    learned = [] if suggestions is None else add_suggestions(job, output, suggestions)
    scores = {BEFORE: before, AFTER: after, **{name: rows[:n] for name, rows in counted.items()}}
    return Finetuned(
        history=trained.progress.history,
        chosen=trained.chosen,
        comparison=compare(split.train, test, scores),
        power=_power(fitted, after, test),
        baselines=compare(split.train, validation, {name: rows[n:] for name, rows in counted.items()}),
        suggestions=learned,
    )


def _train_detector(job: Job, settings: Settings, train: Sampler, validation: list[LabelledWindow]) -> Trained:
    """Train to the end, keeping history and PEFT folder; the model is gone from memory when it returns."""
    start, history, tell = job.start, job.outputs.history, job.on_validation

    def keep(part: Part, row: Row) -> None:
        with history.open("ab") as file:
            file.write(_json_line(row))
        tell(part, row)

    job = replace(job, on_validation=keep)
    with job.adapted(
        settings,
        start.detector,
        form=DEFAULT_FORMAT,
        max_title_tokens=settings.max_title_tokens,
        longest_window=train.longest_window,
        layers=settings.layers,
    ) as (model, prompter, shape):
        before = lora_state(model.backbone)
        task = Detecting(prompter, train, validation, warm=start.denoiser is not None)
        job.outputs.make_folder()
        trainer = job.trainer("detector", model, task, settings, job.outputs.checkpoint)
        # Rows after the checkpoint are measured again.
        history.write_bytes(b"".join(map(_json_line, trainer.progress.history)))
        beginning = "the base model alone" if start.metadata is None else start.metadata.name
        job.say(
            f"starting from {beginning}, training on {train.n_sequences:,} sequences, "
            f"validating on up to {len(validation):,} windows of other users"
        )
        trainer.run()
        after = lora_state(model.backbone)
    save_peft(after, job.outputs.peft, rank=settings.rank, alpha=settings.alpha, base_name=start.base)
    exported = {"after": to_gguf(after, shape, settings.alpha), "before": to_gguf(before, shape, settings.alpha)}
    return Trained(**exported, progress=trainer.progress, chosen=trainer.chosen)


def _check_titles(domains: Sequence[Domain], settings: Settings) -> None:
    for domain in domains:
        longest = min(settings.max_window, max(len(sequence) for sequence in domain.sequences))
        if len(domain.titles) < 2 * longest:
            raise OptionError(
                f"{domain.name}: {len(domain.titles)} titles are too few to draw noise for windows of {longest} items",
                remedy="give the whole catalog, or a smaller `max_window`",
            )


def _sampler(
    domains: list[Domain], settings: Settings, rates: tuple[float, ...], shorten: float, *, stream: int
) -> Sampler:
    return Sampler(
        domains, max_window=settings.max_window, rates=rates, shorten=shorten, seed=settings.seed * 4 + stream
    )


def held_out(domains: list[Domain], settings: Settings, most: int, *, draws: int, stream: int) -> list[LabelledWindow]:
    """Up to ``most`` windows of held-out users, as many of each domain, each sequence at most ``draws`` times."""
    return list(_sampler(domains, settings, (HELD_OUT_RATE,), 0, stream=stream).windows(most, draws))


def _scores(adapter: Path, base: Path, merged: Path, parts: list[list[LabelledWindow]]) -> list[list[np.ndarray]]:
    """Noise log-odds of each part's windows, by llama.cpp with a file written to ``merged``."""
    merge(adapter, base, merged, "bf16")
    with Denoiser.load(str(merged)) as denoiser:
        return [denoiser.score(window.titles for window in part) for part in parts]


def _belonging(scores: list[np.ndarray], windows: list[LabelledWindow]) -> tuple[np.ndarray, np.ndarray]:
    """Noise log-odds of the items left as they were, the windows' last left out, and the numbers of their users."""
    score, label = judged(scores, windows)
    number: dict[Hashable, int] = {}
    of_window = [number.setdefault((window.domain, window.user), len(number)) for window in windows]
    user = np.repeat(np.array(of_window, dtype=np.int64), [len(window.labels) - 1 for window in windows])
    return score[label == 0], user[label == 0]


def _power(calibration: Calibration, log_odds: list[np.ndarray], windows: list[LabelledWindow]) -> Power | None:
    try:
        return power(log_odds, windows, calibration.threshold(RATE), RATE)
    except ModelError:  # too few items for so low a rate
        return None


def _json_line(row: Row) -> bytes:
    return orjson.dumps(row) + b"\n"


def _summary(domains: list[Domain], start: Start, settings: Settings, trained: Trained) -> dict[str, Any]:
    progress = trained.progress
    before = {} if start.metadata is None else start.metadata.training
    return {
        # Of the suggestions that stay, unless the run goes on to train them.
        **{name: before[name] for name in ("suggestions",) if name in before},
        "start": None if start.metadata is None else start.metadata.name,
        "date": time.strftime("%Y-%m-%d"),
        "domains": [
            {
                "name": domain.name,
                "sequences": len(domain.sequences),
                "users": len(set(domain.users)),
                "titles": len(domain.titles),
            }
            for domain in domains
        ],
        "windows": progress.windows,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds),
        "settings": {key: value for key, value in asdict(settings).items() if value is not None},
        "validation": trained.chosen,
    }
