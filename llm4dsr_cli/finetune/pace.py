"""How fast a run goes, and how far that gets it."""

from __future__ import annotations

from dataclasses import dataclass

from llm4dsr_cli.finetune.settings import Schedule


@dataclass(frozen=True)
class Pace:
    """Measured training speed: tokens and windows a second."""

    tokens: float
    windows: float

    def expected_windows(self, settings: Schedule) -> float:
        """Windows that a whole run will see."""
        by_number = float("inf") if settings.windows is None else float(settings.windows)
        by_time = float("inf") if settings.time_budget is None else self.windows * settings.time_budget
        return min(by_number, by_time)

    def sentence(self, settings: Schedule, n_sequences: int, seen: int = 0) -> str:
        """What the run will get through, said before it starts; ``seen`` windows were seen before it was resumed."""
        total = max(self.expected_windows(settings), seen)
        times = total / n_sequences
        turns = f"{times:,.0f} times" if times >= 10 else f"{times:.1f} times"
        speed = f"about {rounded(self.tokens):,.0f} tokens/s"
        done = f", of which {seen:,} are done" if seen else ""
        left = duration((total - seen) / self.windows)
        if total == settings.windows:
            return f"{speed}: {total:,.0f} windows{done}, {turns} the {n_sequences:,} sequences, will take about {left}"
        return (
            f"{speed}: {left} will see about {rounded(total):,.0f} windows{done}, {turns} the {n_sequences:,} sequences"
        )


def duration(seconds: float) -> str:
    """A stretch of time in words, such as ``90 s``, ``25 min`` or ``1.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def rounded(number: float) -> float:
    """To two digits, which is all that an estimate is good for."""
    return float(f"{number:.2g}")
