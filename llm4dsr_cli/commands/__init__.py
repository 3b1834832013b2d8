"""The command line. Commands parse, call the library, and print; nothing else happens here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from llm4dsr_cli.commands.apply import apply
from llm4dsr_cli.commands.calibrate import calibrate
from llm4dsr_cli.commands.clean import clean
from llm4dsr_cli.commands.command import Command, Group
from llm4dsr_cli.commands.convert import convert
from llm4dsr_cli.commands.evaluate import evaluate
from llm4dsr_cli.commands.finetune import finetune
from llm4dsr_cli.commands.models import models
from llm4dsr_cli.commands.project_command import ProjectCommand, takes_project_file
from llm4dsr_cli.commands.report import report
from llm4dsr_cli.commands.score import score
from llm4dsr_cli.commands.show import show
from llm4dsr_cli.commands.trial import trial
from llm4dsr_cli.commands.undo import undo
from llm4dsr_cli.streams import write_out
from llm4dsr_cli.version import __version__


class Stopped(Exception):
    """Carries an interrupt or a broken pipe past Typer, which would make a bare exit code of it."""

    def __init__(self, cause: KeyboardInterrupt | BrokenPipeError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Commands(Group):
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _carried():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _carried():
            return super().invoke(ctx)


@contextmanager
def _carried() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError) as cause:
        raise Stopped(cause) from cause


app = typer.Typer(
    name="llm4dsr",
    cls=_Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    # Lines as wide as the terminal: without a bound of its own, click wraps at 80 columns.
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": sys.maxsize},
    help="Find and fix the items of a user's interaction sequence that do not belong.",
)


def _version(wanted: bool) -> None:
    if wanted:
        write_out(f"llm4dsr {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    pass


for command in (clean, score, apply, finetune, calibrate, evaluate, trial, convert):
    app.command(cls=ProjectCommand)(takes_project_file(command))
for reader in (report, show, undo):  # of an audit, and of nothing that a project's file is about
    app.command(cls=Command)(reader)
app.add_typer(models, name="models")
