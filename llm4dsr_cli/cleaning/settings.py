"""What a user may say of a cleaning: what is done with flagged items, and from where on an item is flagged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

from llm4dsr_cli.cleaning.decision import Fallback
from llm4dsr_cli.defaults import FALSE_EDIT_RATE
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.records.edits import Action
from llm4dsr_cli.scores import log_odds_of
from llm4dsr_cli.thresholds import check_rate

A_SHARE = "give a share of all items, between 0 and 1, as .05"


@dataclass(frozen=True)
class CleaningSettings:
    """What is done with flagged items, and which items are flagged.

    At most one of ``threshold``, ``false_edit_rate`` and ``edit`` may be given; with none, the false-edit rate is
    FALSE_EDIT_RATE, or the lowest that the gate file promises.

    Attributes:
        action: "drop" takes flagged items out, "mark" leaves them, "replace" puts what belongs in their place.
        fallback: what "replace" does where nothing belongs: "drop" or "keep".
        threshold: noise probability above which an item is flagged.
        false_edit_rate: flag at most this share of the items that belong, by the calibration of the gate file, or else
            of the denoiser.
        edit: flag at most this share of all items, the most suspicious ones; it takes two passes over the data.
        max_edits: at most so many edits a sequence, or, below 1, such a share of its items.
        protect_last: so many items at a sequence's end are never edited.
        fusion: judge by the gate file's counts, too, where there is a gate file.

    Raises:
        OptionError: an attribute is out of range, or two contradict each other.
    """

    action: Action = "drop"
    fallback: Fallback = "drop"
    threshold: float | None = None
    false_edit_rate: float | None = None
    edit: float | None = None
    max_edits: float | None = None
    protect_last: int = 1
    fusion: bool = True

    def __post_init__(self) -> None:
        check_choice("action", self.action, ("drop", "mark", "replace"))
        check_choice("fallback", self.fallback, ("drop", "keep"))
        ways = {"threshold": self.threshold, "false_edit_rate": self.false_edit_rate, "edit": self.edit}
        for name, value in {**ways, "max_edits": self.max_edits}.items():
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, Real):
                    raise OptionError(f"`{name}` is {value!r}", remedy=A_SHARE if name == "edit" else "give a number")
                if not isinstance(value, (int, float)):  # numpy's numbers, which no report could hold
                    object.__setattr__(self, name, float(value))
        if isinstance(self.protect_last, bool) or not isinstance(self.protect_last, Integral):
            raise OptionError(f"`protect_last` is {self.protect_last!r}", remedy="give a whole number")
        object.__setattr__(self, "protect_last", int(self.protect_last))
        given = [f"`{name}`" for name, value in ways.items() if value is not None]
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)} contradict each other", remedy="give one of them")
        if self.edit is not None and not 0 < self.edit < 1:
            raise OptionError(f"`edit` is {self.edit}", remedy=A_SHARE)
        if self.false_edit_rate is not None:
            check_rate(self.false_edit_rate)
        self.gate(0.0 if self.threshold is None else log_odds_of(self.threshold))

    def rate(self, gate_file: GateFile | None) -> float | None:
        """The false-edit rate that the threshold is to keep; None when the threshold comes from elsewhere.

        Where none was asked for, it is FALSE_EDIT_RATE, or the lowest that the gate file promises.
        """
        if self.threshold is not None or self.edit is not None:
            return None
        if self.false_edit_rate is not None or gate_file is None:
            return self.false_edit_rate or FALSE_EDIT_RATE
        return gate_file.curve(fusion=self.fusion).promised(FALSE_EDIT_RATE)

    def gate(self, log_odds: float) -> Gate:
        """The gate of these settings, with a threshold in log-odds."""
        return Gate(log_odds, self.max_edits, self.protect_last)

    def log_odds_threshold(self, gate_file: GateFile | None, of_rate: Callable[[float], float]) -> float:
        """The threshold in log-odds: the one that is given, else the gate file's for the rate, else the denoiser's.

        Args:
            of_rate: the denoiser's threshold for a false-edit rate; asked only where it is needed.

        Raises:
            ValueError: a share of edits is asked for, whose threshold a ``Survey`` finds.
            ModelError: the calibration is too small to promise so low a rate.
        """
        if self.threshold is not None:
            return log_odds_of(self.threshold)
        rate = self.rate(gate_file)
        if rate is None:
            raise ValueError("a share of edits has a threshold only on some data")
        return of_rate(rate) if gate_file is None else gate_file.curve(fusion=self.fusion).threshold(rate)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises OptionError when an argument's value is none of the choices."""
    if value not in choices:
        *others, last = choices
        raise OptionError(f"`{name}` is {value}: no such {name}", remedy=f"choose {', '.join(others)} or {last}")
