"""How commands speak: help under headings, a library's errors in the flags of the command, and errors of usage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, cast

import typer
import typer.core

from llm4dsr_cli.errors import Llm4dsrError, OptionError

# Typer brings its own copy of click, or imports click, by its version. BadParameter is what it shows of either.
UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])

_ARGUMENT = re.compile(r"`([A-Za-z_]\w*)`")
_WIDEST_NAME = 30  # of click's lists

_running: ContextVar[Sequence[Any]] = ContextVar("_running", default=())


def in_flags(text: str) -> str:
    """A text of the library as the running command says it: its flag for each argument that is named in backquotes.

    A name that is no parameter of the command stays as it is.
    """
    flags = {parameter.name: _flag(parameter) for parameter in _running.get()}
    return _ARGUMENT.sub(lambda found: flags.get(found[1], found[0]), text)


def _flag(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).removesuffix("...")
    return str(next((name for name in parameter.opts if name.startswith("--")), parameter.opts[0]))


def explained(error: Any) -> OptionError:
    """One sentence of our style for a ``UsageError``, which Typer would show in its own."""
    # "Did you mean" comes with commands, as a sentence of its own.
    what, _, guess = " ".join(error.format_message().split()).rstrip(".").partition(". Did you mean ")
    path = "llm4dsr" if error.ctx is None else error.ctx.command_path
    return OptionError(what[:1].lower() + what[1:], remedy=f"did you mean {guess}" if guess else f"see {path} --help")


# Options that may stand without a value: the one that they have then, and what is one that is written behind them.
_OPTIONAL_VALUES = {"--ray": ("local", re.compile(r"local|auto|ray://\S*|[\w.-]+:\d+"))}


def with_values(args: Sequence[str]) -> list[str]:
    """The arguments, in which options that may stand without a value have one."""
    whole: list[str] = []
    for number, argument in enumerate(args):
        whole.append(argument)
        if argument == "--":
            return [*whole, *args[number + 1 :]]
        if argument in _OPTIONAL_VALUES:
            usual, written = _OPTIONAL_VALUES[argument]
            if not written.fullmatch(next(iter(args[number + 1 : number + 2]), "")):
                whole.append(usual)
    return whole


class Command(typer.core.TyperCommand):
    """A command whose help has headings, and whose errors name its flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, with_values(args))
        except UsageError as error:
            error.ctx = error.ctx or ctx  # type: ignore[attr-defined]  # an option without its value does not know it
            raise

    def invoke(self, ctx: Any) -> Any:
        token = _running.set(self.params)
        try:
            return super().invoke(ctx)
        except Llm4dsrError as error:
            error.reword(in_flags)
            raise
        finally:
            _running.reset(token)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """As Typer's own; the options of a panel stand under its name, after the others."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        # All in one column, as if they were one list.
        widths = [len(name) for rows in sections.values() for name, _ in rows]
        column = max((width for width in widths if width <= _WIDEST_NAME), default=0)
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl([(name.ljust(column), text) for name, text in rows])


class Group(typer.core.TyperGroup):
    """A group of commands; alone, it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)
