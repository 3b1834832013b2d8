"""Tables on standard output: with rules and colours on a terminal, plain text of 80 columns elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table

from llm4dsr_cli.console import width_of


class Tables:
    """Gathers lines and tables for standard output.

    Args:
        color: whether a terminal may show colours.
    """

    def __init__(self, *, color: bool) -> None:
        self._terminal = sys.stdout.isatty()
        self._text = io.StringIO()
        self._console = rich.console.Console(
            file=self._text,
            force_terminal=self._terminal,
            no_color=not color,
            highlight=False,
            markup=False,
            width=width_of(sys.stdout),
        )

    def line(self, text: str = "") -> None:
        """Add a text, wrapped where it is long."""
        self._console.print(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table below an empty line; all columns but the first are aligned to the right."""
        table = rich.table.Table(
            box=rich.box.SIMPLE_HEAD if self._terminal else None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            header_style="bold",
        )
        for number, name in enumerate(columns):
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.line()
        self._console.print(table)

    @property
    def text(self) -> str:
        """All that was added."""
        return self._text.getvalue()
