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
import torch

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.finetune.comparison import AFTER, BEFORE, Line, Power, baseline_scores, compare, judged, power
from llm4dsr_cli.finetune.data import Domain, LabelledWindow, Sampler, fingerprint, split_users
from llm4dsr_cli.finetune.export import Shape, adapter_state, suggester_tensors, to_gguf, write_adapter
from llm4dsr_cli.finetune.lora import add_lora, load_lora_state, lora_layers, lora_state, save_peft
from llm4dsr_cli.finetune.model import NoiseModel, check_prompts, compile_backbone, load_base, pick_device, pick_dtype
from llm4dsr_cli.finetune.outputs import Outputs
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.finetune.start import Start, window_seed
from llm4dsr_cli.finetune.suggestion import SuggestionProgress, SuggestionSettings
from llm4dsr_cli.finetune.suggestion_run import add_suggestions
from llm4dsr_cli.finetune.trainer import Progress, Trainer
from llm4dsr_cli.model.base_model import find_base
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.merged_model import merge
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompter
from llm4dsr_cli.model.registry import Registry
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

    history: list[dict[str, float]]
    chosen: dict[str, float]
    comparison: list[Line]
    power: Power | None
    baselines: list[Line]
    suggestions: list[dict[str, float]]


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
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_validation: Callable[[dict[str, float]], None] = lambda row: None,
    on_suggestion_step: Callable[[SuggestionProgress], None] = lambda progress: None,
    on_suggestion_validation: Callable[[dict[str, float]], None] = lambda row: None,
) -> Finetuned:
    """Train, export, calibrate and measure a denoiser; then train its suggestions.

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

    Raises:
        OptionError: an unfinished run is in the way, the data are too few, or start and base contradict each other.
        ModelError: base or start cannot be used.
        KeyboardInterrupt: after Ctrl-C, with the checkpoint saved.
    """
    outputs = Outputs(output)
    outputs.check([outputs.checkpoint, outputs.suggestion_checkpoint], resume)
    base_path = find_base(start.base, registry=Registry.load(), offline=offline, say=say)
    start.check_base(base_path)
    architecture = str(open_gguf(base_path).fields["general.architecture"].contents())
    split = split_users(domains, validation=settings.validation, calibration=settings.calibration, test=settings.test)
    _check_titles(domains, settings)
    seed = window_seed(settings.seed, start.denoiser)
    train = _sampler(split.train, replace(settings, seed=seed), settings.rates, settings.shorten, stream=0)
    validation = held_out(split.validation, settings, settings.validation_windows, draws=DRAWS, stream=1)
    # Each sequence calibrates once, since a quantile of repeated items would promise more than it can keep.
    calibration = held_out(split.calibration, settings, settings.calibration_windows, draws=1, stream=2)
    test = held_out(split.test, settings, settings.test_windows, draws=DRAWS, stream=TEST_STREAM)

    tokenizer = Model(base_path, vocab_only=True)
    prompter = Prompter(DEFAULT_FORMAT, tokenizer.tokenize, settings.max_title_tokens)
    torch.manual_seed(settings.seed)
    where = pick_device(device)
    causal_lm = load_base(base_path, architecture, pick_dtype(where), settings.layers)
    check_prompts(causal_lm, prompter.max_tokens(train.longest_window))
    model = NoiseModel(causal_lm, prompter.answers)
    add_lora(model.backbone, settings.rank, settings.alpha)
    shape = Shape.of(causal_lm, architecture)
    if start.denoiser is not None:
        layers = [name for name, _ in lora_layers(model.backbone)]
        load_lora_state(model.backbone, adapter_state(start.denoiser, layers, shape, settings.alpha))
    untrained = lora_state(model.backbone)
    model.to(where)
    compile_backbone(model, compile_layers)

    def keep(row: dict[str, float]) -> None:
        with outputs.history.open("ab") as file:
            file.write(_json_line(row))
        on_validation(row)

    outputs.make_folder()
    trainer = Trainer(
        model,
        prompter,
        train,
        validation,
        settings,
        checkpoint=outputs.checkpoint,
        identity={
            "base": file_sha256(base_path),
            "data": fingerprint(domains),
            "init": "" if start.denoiser is None else file_sha256(start.denoiser),
        },
        warm=start.denoiser is not None,
        say=say,
        on_step=on_step,
        on_validation=keep,
    )
    if resume:
        trainer.resume()
    # Rows after the checkpoint are measured again.
    outputs.history.write_bytes(b"".join(map(_json_line, trainer.progress.history)))
    beginning = "the base model alone" if start.metadata is None else start.metadata.name
    say(
        f"starting from {beginning}, training on {train.n_sequences:,} sequences, "
        f"validating on up to {len(validation):,} windows of other users"
    )
    trainer.run()

    state = lora_state(model.backbone)
    save_peft(state, outputs.peft, rank=settings.rank, alpha=settings.alpha, base_name=start.base)
    metadata = DenoiserMetadata(
        name=output.stem,
        form=DEFAULT_FORMAT,
        max_window=train.longest_window,
        max_title_tokens=settings.max_title_tokens,
        base_name=base_path.name if start.base.endswith(".gguf") and not start.base.startswith("hf:") else start.base,
        base_sha256=file_sha256(base_path),
        base_architecture=architecture,
        licence=licence,
        training=_summary(split.train, start, settings, trainer),
        layers=settings.layers,
    )
    say(f"calibrating on {len(calibration):,} windows of other users")
    with TemporaryDirectory(dir=outputs.folder) as folder:
        # Calibrated and measured by the engine that will serve it, not by the model in training.
        adapter = Path(folder, "adapter.gguf")
        write_adapter(adapter, to_gguf(state, shape), settings.alpha, metadata)
        merged = Path(folder, "merged.gguf")
        belonging, after = _scores(adapter, base_path, merged, [calibration, test])
        fitted = Calibration.fit(*_belonging(belonging, calibration))
        # Suggestions that are there stay, for a run that trains none, or that is interrupted while it does.
        known = {} if start.denoiser is None else suggester_tensors(open_gguf(start.denoiser))
        alpha = start.metadata.suggestion_alpha if known and start.metadata else None
        calibrated = replace(metadata, calibration=fitted, suggestion_alpha=alpha)
        write_adapter(output, to_gguf(state, shape), settings.alpha, calibrated, known)

        say(f"comparing on {len(test):,} windows of users that nothing was chosen by")
        before_adapter = start.denoiser
        if before_adapter is None:
            before_adapter = Path(folder, "before.gguf")
            write_adapter(before_adapter, to_gguf(untrained, shape), settings.alpha, metadata)
        (before,) = _scores(before_adapter, base_path, merged, [test])
    history, chosen, validation = trainer.progress.history, trainer.chosen, trainer.validation
    counted, missing = baseline_scores(split.train, [*test, *validation])
    if missing is not None:
        say(missing)
    n = len(test)
    # Suggestions load the base anew: two at a time would take twice the memory.
    del trainer, model, causal_lm
    learned = []
    if suggestions is not None:
        learned = add_suggestions(
            output,
            output,
            split,
            suggestions,
            base=base_path,
            start=start.denoiser,
            data=fingerprint(domains),
            checkpoint=outputs.suggestion_checkpoint,
            resume=resume,
            device=device,
            compile_layers=compile_layers,
            say=say,
            on_step=on_suggestion_step,
            on_validation=on_suggestion_validation,
        )
    return Finetuned(
        history=history,
        chosen=chosen,
        comparison=compare(
            split.train,
            test,
            {BEFORE: before, AFTER: after, **{name: rows[:n] for name, rows in counted.items()}},
        ),
        power=_power(fitted, after, test),
        baselines=compare(split.train, validation, {name: rows[n:] for name, rows in counted.items()}),
        suggestions=learned,
    )


def _check_titles(domains: Sequence[Domain], settings: Settings) -> None:
    for domain in domains:
        longest = min(settings.max_window, max(len(sequence) for sequence in domain.sequences))
        if len(domain.titles) < 2 * longest:
            raise OptionError(
                f"{domain.name}: {len(domain.titles)} titles are too few to draw noise for windows of {longest} items",
                remedy="give the whole catalog, or a smaller --max-window",
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


def _json_line(row: dict[str, float]) -> bytes:
    return orjson.dumps(row) + b"\n"


def _summary(domains: list[Domain], start: Start, settings: Settings, trainer: Trainer) -> dict[str, Any]:
    progress = trainer.progress
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
        "validation": trainer.chosen,
    }
