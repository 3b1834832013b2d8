"""A fine-tuning run from sequences to a calibrated denoiser file."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.defaults import FALSE_EDIT_RATE
from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.evaluation.metrics import EditQuality, edit_quality
from llm4dsr_cli.finetune.adapter import write_adapters
from llm4dsr_cli.finetune.comparison import AFTER, BEFORE, Line, baseline_scores, compare, judged
from llm4dsr_cli.finetune.data import Domain, LabelledWindow, Sampler, fingerprint, split_users
from llm4dsr_cli.finetune.job import Job, Trained
from llm4dsr_cli.finetune.lora import save_peft
from llm4dsr_cli.finetune.mixed_noise import mixed
from llm4dsr_cli.finetune.outputs import Outputs
from llm4dsr_cli.finetune.settings import Settings, SuggestionSettings
from llm4dsr_cli.finetune.start import Start, window_seed
from llm4dsr_cli.finetune.suggestions import add_suggestions
from llm4dsr_cli.finetune.tasks import Detecting, Row
from llm4dsr_cli.finetune.title_length import choose_title_tokens
from llm4dsr_cli.finetune.trainer import Progress
from llm4dsr_cli.model.adapter import Part
from llm4dsr_cli.model.architecture import check_model
from llm4dsr_cli.model.base_model import find_base
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.merged_model import merge
from llm4dsr_cli.model.metadata import DenoiserMetadata, check_window
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompter
from llm4dsr_cli.model.registry import Registry
from llm4dsr_cli.noise import Draw
from llm4dsr_cli.thresholds import ThresholdCurve

# Validation and calibration mimic data to be cleaned, where noise is rarer than in training.
HELD_OUT_RATE = 0.1
# Where held-out sequences are few, each may be measured with so many draws of noise.
DRAWS = 4
# The stream of random numbers that test windows are drawn with.
TEST_STREAM = 3


@dataclass(frozen=True)
class Finetuned:
    """What a run brought; all but ``suggestions`` is empty where the detector was not trained.

    Attributes:
        history: a row for each validation: step, windows, seconds, loss, learning_rate, auroc, average_precision, and
            with several domains auroc_NAME and average_precision_NAME. The first row is from before the training.
        chosen: the row of the weights that were exported.
        comparison: before, after and baselines on the test users' windows.
        power: what the gate does to them at the default false-edit rate; None when the calibration is too small for it.
        baselines: the baselines on the validation windows, for the training curve.
        suggestions: a row for each validation of the training in suggestions (``add_suggestions``); none without one.
    """

    history: list[Row] = field(default_factory=list)
    chosen: Row = field(default_factory=dict)
    comparison: list[Line] = field(default_factory=list)
    power: EditQuality | None = None
    baselines: list[Line] = field(default_factory=list)
    suggestions: list[Row] = field(default_factory=list)


def finetune(
    domains: Sequence[Domain],
    output: Path,
    start: Start,
    settings: Settings,
    suggestions: SuggestionSettings | None = None,
    *,
    detector: bool = True,
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
        detector: False keeps the start's detector and its calibration, to the bit; of ``settings``, the shares of the
            users that are held out count all the same.
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
    if start.denoiser is None and not detector:
        raise OptionError("suggestions alone take a denoiser to add them to", remedy="name it with `init`")
    outputs = Outputs(output)
    outputs.check(["detector", "suggester"] if detector else ["suggester"], resume)
    split = split_users(domains, validation=settings.validation, calibration=settings.calibration, test=settings.test)
    base = find_base(start.base, registry=Registry.load(), offline=offline, say=say)
    start.check_base(base)
    job = Job(
        base=base,
        architecture=check_model(open_gguf(base)).architecture,
        start=start,
        split=split,
        data=fingerprint(domains),
        outputs=outputs,
        resume=resume,
        device=device,
        compile_layers=compile_layers,
        say=say,
        on_step=on_step,
        on_validation=on_validation,
    )
    done = Finetuned()
    if detector:
        _check_titles(domains, settings)
        done = _make_detector(job, settings, _title_tokens(domains, job, settings), licence)
    if suggestions is not None:
        denoiser = output if detector or start.denoiser is None else start.denoiser
        done = replace(done, suggestions=add_suggestions(job, denoiser, suggestions))
    return done


def _title_tokens(domains: Sequence[Domain], job: Job, settings: Settings) -> int:
    """Where the run cuts titles, in tokens."""
    if settings.max_title_tokens is not None:
        return settings.max_title_tokens
    window = min(settings.max_window, max(len(sequence) for domain in domains for sequence in domain.sequences))
    fields = open_gguf(job.base).fields
    names = (f"{job.architecture}.{name}" for name in ("context_length", "attention.sliding_window"))
    room = min((int(fields[name].contents()) for name in names if name in fields), default=0)
    with Model(job.base, vocab_only=True) as vocabulary:

        def fits(tokens: int) -> bool:
            return Prompter(DEFAULT_FORMAT, vocabulary.tokenize, tokens).max_tokens(window) <= room

        return choose_title_tokens([domain.titles for domain in domains], vocabulary.tokenize, fits, job.say)


def _make_detector(job: Job, settings: Settings, title_tokens: int, licence: str) -> Finetuned:
    """Train, export, calibrate and measure one that cuts titles after so many tokens."""
    settings = replace(settings, max_title_tokens=title_tokens)
    start, split, outputs, say = job.start, job.split, job.outputs, job.say
    domains, noise = (split.train, None) if settings.noise == "uniform" else mixed(split.train)
    train = Sampler(
        domains,
        max_window=settings.max_window,
        rates=settings.rates,
        shorten=settings.shorten,
        seed=4 * window_seed(settings.seed, start.denoiser),
        noise=noise,
    )
    check_window(train.longest_window, title_tokens)
    validation = held_out(split.validation, settings, settings.validation_windows, draws=DRAWS, stream=1)
    # Each sequence calibrates once, since a quantile of repeated items would promise more than it can keep.
    calibration = held_out(split.calibration, settings, settings.calibration_windows, draws=1, stream=2)
    test = held_out(split.test, settings, settings.test_windows, draws=DRAWS, stream=TEST_STREAM)
    beginning = "the base model alone" if start.metadata is None else start.metadata.name
    trained = job.train(
        "detector",
        settings,
        start.detector,
        lambda prompter: Detecting(prompter, train, validation, warm=start.denoiser is not None),
        max_title_tokens=title_tokens,
        longest_window=train.longest_window,
        layers=settings.layers,
        adapted_layers=settings.adapted_layers,
        beginning=f"starting from {beginning}, training on {train.n_sequences:,} sequences, "
        f"validating on up to {len(validation):,} windows of other users",
    )
    progress = trained.progress
    save_peft(trained.state, outputs.peft, rank=settings.rank, alpha=settings.alpha, base_name=start.base)
    metadata = DenoiserMetadata(
        name=outputs.denoiser.stem,
        form=DEFAULT_FORMAT,
        max_window=train.longest_window,
        max_title_tokens=title_tokens,
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
        of_calibration, after = _scores(adapter, job.base, merged, [calibration, test])
        fitted = ThresholdCurve.fit(*belonging(of_calibration, calibration))
        # Suggestions that are there stay, for a run that trains none, or that is interrupted while it does.
        write_adapters(outputs.denoiser, replace(metadata, calibration=fitted), trained.after, start.suggester)

        say(f"comparing on {len(test):,} windows of users that nothing was chosen by")
        if start.denoiser is None:
            write_adapters(adapter, metadata, trained.before)
        (before,) = _scores(start.denoiser or adapter, job.base, merged, [test])
    validation = validation[: progress.validation_windows]
    counted = baseline_scores(split.train, [*test, *validation], say=say)
    n = len(test)
    scores = {BEFORE: before, AFTER: after, **{name: rows[:n] for name, rows in counted.items()}}
    return Finetuned(
        history=progress.history,
        chosen=trained.chosen,
        comparison=compare(split.train, test, scores),
        power=_power(fitted, after, test),
        baselines=compare(split.train, validation, {name: rows[n:] for name, rows in counted.items()}),
    )


def _check_titles(domains: Sequence[Domain], settings: Settings) -> None:
    for domain in domains:
        longest = min(settings.max_window, max(len(sequence) for sequence in domain.sequences))
        if len(domain.titles) < 2 * longest:
            raise OptionError(
                f"{domain.name}: {len(domain.titles)} titles are too few to draw noise for windows of {longest} items",
                remedy="give the whole catalog, or a smaller `max_window`",
            )


def held_out(
    domains: list[Domain],
    settings: Settings,
    most: int,
    *,
    draws: int,
    stream: int,
    noise: Sequence[Draw] | None = None,
) -> list[LabelledWindow]:
    """Up to ``most`` windows of held-out users, as many of each domain, each sequence at most ``draws`` times."""
    seed = 4 * settings.seed + stream
    window = settings.max_window
    sampler = Sampler(domains, max_window=window, rates=(HELD_OUT_RATE,), shorten=0, seed=seed, noise=noise)
    return list(sampler.windows(most, draws))


def _scores(adapter: Path, base: Path, merged: Path, parts: list[list[LabelledWindow]]) -> list[list[np.ndarray]]:
    """Noise log-odds of each part's windows, by llama.cpp with a file written to ``merged``."""
    merge(adapter, base, merged, "bf16")
    with Denoiser.load(str(merged)) as denoiser:
        return [denoiser.score(window.titles for window in part) for part in parts]


def belonging(scores: list[np.ndarray], windows: list[LabelledWindow]) -> tuple[np.ndarray, np.ndarray]:
    """Noise log-odds of the items left as they were, the windows' last left out, and the numbers of their users."""
    score, label = judged(scores, windows)
    number: dict[Hashable, int] = {}
    of_window = [number.setdefault((window.domain, window.user), len(number)) for window in windows]
    user = np.repeat(np.array(of_window, dtype=np.int64), [len(window.labels) - 1 for window in windows])
    return score[label == 0], user[label == 0]


def _power(
    calibration: ThresholdCurve, log_odds: list[np.ndarray], windows: list[LabelledWindow]
) -> EditQuality | None:
    try:
        threshold = calibration.threshold(FALSE_EDIT_RATE)
    except ModelError:  # too few items for so low a rate
        return None
    score, label = judged(log_odds, windows)
    return edit_quality(score > threshold, label)


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
