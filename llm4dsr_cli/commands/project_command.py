"""Commands whose options may stand in a project's file, which goes after what is typed and the environment."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import typer

from llm4dsr_cli.commands.command import Command, UsageError, explained
from llm4dsr_cli.commands.parameters import OptionSet, parameters
from llm4dsr_cli.commands.project_file import ProjectFile, Setting, find_project_file, read_project_file
from llm4dsr_cli.console import Console
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.text import shortened

T = TypeVar("T")

_VARIABLE = "LLM4DSR_CONFIG"
_MOST_CHARACTERS = 40  # of a value, in the line that tells of it
# What an option names, by what its placeholder begins with.
_PLACES = {"NAME|": "model", "FILE": "file", "FOLDER": "file", "[ADDRESS]": "cluster"}


@dataclass(frozen=True, kw_only=True)
class ProjectOptions(OptionSet):
    """Which file's options are taken; ``ProjectCommand`` does it before the command runs."""

    heading: ClassVar[str] = "Project file"

    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            envvar=_VARIABLE,
            help="Take options that are not given from this TOML file. [default: llm4dsr.toml beside the input, else "
            "here, else [tool.llm4dsr] of the project's pyproject.toml]",
        ),
    ] = None
    no_config: Annotated[bool, typer.Option("--no-config", help="Take options from no file.")] = False


def takes_project_file(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command ``ProjectOptions``; it is called without them."""
    added = parameters(ProjectOptions)

    @functools.wraps(command)
    def run(**values: Any) -> T:
        for one in added:
            del values[one.name]
        return command(**values)

    signature = inspect.signature(command)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = command.__annotations__ | {one.name: one.annotation for one in added}
    return run


@dataclass(frozen=True)
class _Taken:
    """What a run took from its file: value by parameter, and the parameter's long name."""

    file: ProjectFile
    values: Mapping[str, Any]
    keys: Mapping[str, str]

    def line(self) -> str:
        words = (f"--{self.keys[name]}{_shown(value)}" for name, value in self.values.items())
        return f"options from {self.file.path}: {', '.join(words)}"

    def named_in(self, text: str) -> bool:
        """Whether a text names an option that the file gave."""
        return any(re.search(rf"--{re.escape(self.keys[name])}(?![\w-])", text) for name in self.values)


_taken: ContextVar[_Taken | None] = ContextVar("_taken", default=None)


def taken_from_file() -> dict[str, Any] | None:
    """For a report: the file of the running command and the options taken from it; None where none was."""
    taken = _taken.get()
    if taken is None:
        return None
    return {"file": str(taken.file.path), "options": {taken.keys[name]: value for name, value in taken.values.items()}}


class ProjectCommand(Command):
    """A command that takes what is not given from a project's file; its first argument is the input."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        file = None if ctx.resilient_parsing else self._file(ctx, args)
        if file is not None:
            ctx.default_map = file.values(self.name or "", _settings(ctx))
        try:
            left = super().parse_args(ctx, args)
        except UsageError as error:
            parameter = getattr(error, "param", None)
            if file is None or parameter is None or not _is_of_file(ctx, parameter.name):
                raise
            sentence = explained(error)
            raise OptionError(sentence.what, where=str(file.path), remedy=sentence.remedy) from None
        if file is not None:
            keys = {setting.name: setting.keys[0] for setting in settings_of(self)}
            values = {name: ctx.params[name] for name in ctx.default_map if _is_of_file(ctx, name)}
            ctx.obj = _Taken(file, values, keys) if values else None
        return left

    def _file(self, ctx: Any, args: list[str]) -> ProjectFile | None:
        try:
            typed, _, _ = self.make_parser(ctx).parse_args(args=[*args])
        except UsageError:  # which the parsing proper tells of
            return None
        config = typed.get("config")
        if config and typed.get("no_config"):
            raise OptionError("--config and --no-config contradict each other", remedy="give one of them")
        if typed.get("no_config") or typed.get("help"):
            return None
        if named := config or os.environ.get(_VARIABLE):
            return read_project_file(named)
        source = typed.get(next(one.name for one in self.params if one.param_type_name == "argument"))
        return find_project_file(source[0] if isinstance(source, (list, tuple)) and source else source or None)

    def invoke(self, ctx: Any) -> Any:
        taken: _Taken | None = ctx.obj
        token = _taken.set(taken)
        try:
            if taken is not None:
                # A file does not hide what it does.
                quiet = ctx.params["quiet"] and not _is_of_file(ctx, "quiet")
                Console(quiet=quiet).say(taken.line())
            return super().invoke(ctx)
        except OptionError as error:
            if taken is not None and taken.named_in(error.what):
                error.locate(str(taken.file.path))
            raise
        finally:
            _taken.reset(token)


def settings_of(command: Any) -> list[Setting]:
    """The options of a command that a file may set."""
    hints = inspect.signature(command.callback).parameters
    chosen = [one for one in command.params if one.param_type_name == "option" and one.name in hints]
    own = {one.name for one in parameters(ProjectOptions)}
    return [_setting(one, hints[one.name].annotation) for one in chosen if one.name not in own]


def _setting(parameter: Any, annotation: Any) -> Setting:
    python_type, info = get_args(annotation)
    kinds = list(_kinds(python_type))
    metavar = parameter.metavar or ""
    place = next((place for start, place in _PLACES.items() if metavar.startswith(start)), None)
    return Setting(
        name=parameter.name,
        keys=tuple(name.removeprefix("--") for name in parameter.opts if name.startswith("--")),
        kind=next(kind for kind in (bool, int, float, str) if kind in kinds),
        parsed=info.parser is not None,
        many=parameter.multiple,
        place=place,
    )


def _kinds(python_type: Any) -> Iterator[Any]:
    """The types that stand in one such as ``list[str] | None``."""
    yield python_type
    for inner in get_args(python_type):
        yield from _kinds(inner)


def _settings(ctx: Any) -> dict[str, Sequence[Setting]]:
    """Of the command and of those beside it."""
    group = None if ctx.parent is None else ctx.parent.command
    commands = getattr(group, "commands", {ctx.command.name: ctx.command})
    return {name: settings_of(one) for name, one in commands.items() if isinstance(one, ProjectCommand)}


def _is_of_file(ctx: Any, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "" if value else " false"
    return f" {shortened(' '.join(map(str, value)) if isinstance(value, list) else str(value), _MOST_CHARACTERS)}"
