"""All that decides a training run."""

from __future__ import annotations

from dataclasses import dataclass

from llm4dsr_cli.errors import OptionError

NOISES = ("uniform", "mixed")


@dataclass(frozen=True)
class Schedule:
    """What decides a training, whatever is learned; with data, base model and start it determines the result.

    Attributes:
        windows: training windows to see; None when only the time budget ends the run.
        time_budget: seconds of training; None when only the number of windows ends it. A run that time ends is not
            repeatable to the bit.
        learning_rate: its peak; warm-up over ``warmup_steps``, but at most a share of the run (``Task.warm_up_share``).
        decay: share of the run, at its end, over which the learning rate falls to nothing, as a cosine does.
        averaging: what is measured and kept is a running mean of the weights, of which each step keeps this share; 0
            keeps the weights of the last step.
        b_rate: factor on it for the B matrices of the adapter (LoRA+, Hayou et al., arXiv 2402.12354).
        rank, alpha: of the low-rank adaptation; its scale is alpha / rank.
        batch_windows: windows of one optimizer step.
        validation_windows: at most so many held-out windows are measured; short runs measure fewer.
        validate_every: steps between validations and checkpoints; None spreads them over the run (``validations``).
        early_stop: end a run that gains nothing any more (see ``Trainer``).
        seed: fixes data and initial weights.
    """

    windows: int | None = 20_000
    time_budget: float | None = None
    learning_rate: float = 1e-3
    decay: float = 1.0
    averaging: float = 0.0
    b_rate: float = 1.0
    warmup_steps: int = 30
    rank: int = 16
    alpha: float = 32.0
    batch_windows: int = 16
    validation_windows: int = 300
    validate_every: int | None = None
    early_stop: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.windows is None and self.time_budget is None:
            raise OptionError("nothing would end the training", remedy="give `windows` or `time_budget`")
        for name in (
            "windows",
            "layers",
            "adapted_layers",
            "rank",
            "max_title_tokens",
            "warmup_steps",
            "batch_windows",
            "validate_every",
        ):
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise OptionError(f"`{name}` is {value}", remedy="give 1 or more")
        if not 0 <= self.learning_rate < 1:
            raise OptionError(f"`learning_rate` is {self.learning_rate:g}", remedy="give a small number, such as 1e-3")
        if not 0 < self.decay <= 1:
            raise OptionError(f"`decay` is {self.decay:g}", remedy="give more than 0, and 1 at most")
        if not 0 <= self.averaging < 1:
            raise OptionError(f"`averaging` is {self.averaging:g}", remedy="give 0 or more, and less than 1")
        if self.seed < 0:
            raise OptionError(f"`seed` is {self.seed}", remedy="give 0 or more")

    @property
    def total_steps(self) -> float:
        return float("inf") if self.windows is None else -(-self.windows // self.batch_windows)

    def fraction(self, step: int, seconds: float) -> float:
        """How much of the run is done after so many steps and seconds, whichever is further; 1 or more at its end."""
        done = step / self.total_steps
        return done if self.time_budget is None else max(done, seconds / self.time_budget)

    @property
    def validations(self) -> int:
        """Number of validations spread over the run: one every 150 steps or three minutes, and at least eight."""
        by_time = float("inf") if self.time_budget is None else self.time_budget / 180
        return max(8, round(min(self.total_steps / 150, by_time)))


@dataclass(frozen=True)
class Settings(Schedule):
    """Settings of the training of a detector.

    Attributes:
        layers: keep only the first so many of the base's layers; None keeps all.
        adapted_layers: train adapters in the upper so many of them alone; None trains all. Those below stay as the
            start has them.
        noise: "uniform", or "mixed" for titles that are popular or near, too (``MixedNoise``).
        max_window: items of the largest window.
        max_title_tokens: longer titles are cut to this many tokens; None chooses from the catalogs
            (``choose_title_tokens``).
        rates: noise rates, of which each training window draws one.
        shorten: share of training windows cut to a random length.
        validation, calibration, test: shares of the users held out, to choose the weights, to set the thresholds, and
            to measure what came out.
        calibration_windows, test_windows: at most so many of their windows are used.
    """

    layers: int | None = None
    adapted_layers: int | None = None
    noise: str = "uniform"
    max_window: int = 20
    max_title_tokens: int | None = None
    rates: tuple[float, ...] = (0.1, 0.2, 0.3)
    shorten: float = 0.25
    validation: float = 0.05
    calibration: float = 0.05
    test: float = 0.05
    calibration_windows: int = 3_000
    test_windows: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_windows % 2:
            raise OptionError(f"`batch_windows` is {self.batch_windows}", remedy="give an even number")
        if self.noise not in NOISES:
            raise OptionError(f"`noise` is {self.noise!r}", remedy=f"choose {' or '.join(NOISES)}")
        if self.max_window < 3:
            raise OptionError(f"`max_window` is {self.max_window}", remedy="give 3 items or more")
        held_out = self.validation + self.calibration + self.test
        if not (min(self.validation, self.calibration, self.test) >= 0 and held_out < 1):
            raise OptionError(f"{held_out:g} of the users are held out", remedy="leave some to train on")
        if not all(0 < rate < 1 for rate in self.rates):
            raise OptionError("`rates` holds one that is not between 0 and 1")


@dataclass(frozen=True)
class SuggestionSettings(Schedule):
    """Settings of the training of a suggester: windows and adapter are smaller."""

    windows: int | None = 5_000
    warmup_steps: int = 20
    rank: int = 4
    alpha: float = 8.0
    batch_windows: int = 8
    validation_windows: int = 60
    early_stop: bool = False
