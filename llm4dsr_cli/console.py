"""What goes to a person: messages, progress and warnings, all on standard error."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TextIO

from llm4dsr_cli.text import printable

# Seconds between two lines of progress where there is no terminal.
LINE_EVERY = 60.0
# Columns of what is printed where there is no terminal.
PLAIN_WIDTH = 80
Part = tuple[str, str]  # of a line: a text, and the style that it has on a terminal ("bold red")


def width_of(stream: TextIO) -> int:
    """Columns that a table may have: the terminal's, or 80 where the stream is no terminal."""
    return shutil.get_terminal_size((PLAIN_WIDTH, 0)).columns if stream.isatty() else PLAIN_WIDTH


def styled(parts: Sequence[Part], *, color: bool) -> str:
    """A line of parts, all of it printable, with their styles if there are to be colours."""
    if not color:
        return "".join(printable(text) for text, _ in parts)
    import rich.console
    import rich.text

    console = rich.console.Console(file=io.StringIO(), force_terminal=True)
    with console.capture() as captured:
        line = rich.text.Text.assemble(*((printable(text), style) for text, style in parts))
        console.print(line, end="", soft_wrap=True)
    return captured.get()


class Advance(Protocol):
    """Tells a progress bar where the work stands."""

    def __call__(self, text: str, fraction: float | None) -> None:
        """``text`` says what was done; ``fraction`` is 0 to 1, or None where the end is unknown."""


class _PrintableFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def untold(text: str, fraction: float | None) -> None:
    """An ``Advance`` that tells nobody."""


class Console:
    """Messages on standard error; ``quiet`` leaves only warnings, ``verbose`` adds llama.cpp's log.

    ``reword`` is given each line before it is printed. What is not printable is escaped: names from files are among it.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        color: bool = True,
        reword: Callable[[str], str] = lambda line: line,
    ) -> None:
        self.quiet = quiet
        self.reword = reword
        self.color = color and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        if verbose:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(_PrintableFormatter("%(name)s: %(message)s"))
            logger = logging.getLogger("llm4dsr")
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG)

    def say(self, line: str) -> None:
        """One line about what happens, unless quiet."""
        if not self.quiet:
            self.warn(line)

    def warn(self, line: str) -> None:
        """One line that even a quiet run prints."""
        sys.stderr.write(f"{printable(self.reword(line))}\n")
        sys.stderr.flush()

    def show(self, parts: Sequence[Part]) -> None:
        """One line in colours, where standard error is a terminal that may have them, unless quiet."""
        if not self.quiet:
            sys.stderr.write(f"{styled(parts, color=self.color and sys.stderr.isatty())}\n")
            sys.stderr.flush()

    @contextmanager
    def progress(self) -> Iterator[Advance]:
        """A bar with text and the time left on a terminal; elsewhere a line of the same, one a minute."""
        if self.quiet:
            yield lambda text, fraction: None
            return
        if not sys.stderr.isatty():
            yield self._lines()
            return
        import rich.console
        import rich.progress

        bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[left]}"),
            console=rich.console.Console(stderr=True, no_color=not self.color),
            transient=True,
        )
        began = time.monotonic()
        with bar:
            task = bar.add_task("", total=None, left="")

            def advance(text: str, fraction: float | None) -> None:
                # Batches, not items, advance the bar: rich's own estimate would swing.
                left = _time_left(time.monotonic() - began, fraction) if fraction else ""
                bar.update(task, description=text, total=1 if fraction else None, completed=fraction or 0, left=left)

            yield advance

    def _lines(self) -> Advance:
        began = told = time.monotonic()

        def advance(text: str, fraction: float | None) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told < LINE_EVERY:
                return
            told = now
            self.say(f"{text}, {min(fraction, 1):.0%} done, {_time_left(now - began, fraction)}" if fraction else text)

        return advance


def _time_left(seconds: float, fraction: float) -> str:
    minutes, rest = divmod(round(seconds * max(0, 1 - fraction) / fraction), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"
