"""Option sets, help under headings, and errors in the words of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
import typer
import typer.main

from llm4dsr_cli.commands.command import Command, Group, UsageError, explained, in_flags
from llm4dsr_cli.commands.parameters import OptionSet, option_sets
from llm4dsr_cli.console import Console
from llm4dsr_cli.errors import Llm4dsrError, MissingExtraError, ModelError, OptionError, RecordError


@dataclass(frozen=True, kw_only=True)
class Colours(OptionSet):
    """How it is painted."""

    heading: ClassVar[str] = "Paint"

    colour: Annotated[str, typer.Option("--colour", "-c", metavar="NAME", help="What it looks like.")]
    coats: Annotated[int, typer.Option("--coats", metavar="N", help="How often.")] = 2


@dataclass(frozen=True, kw_only=True)
class GlossyColours(Colours):
    """How it is painted, and how it shines."""

    gloss: Annotated[bool | None, typer.Option("--gloss/--matt", help="Whether it shines.")] = None


def paint(
    source: Annotated[str, typer.Argument(metavar="WALL...", help="What is painted.")],
    colours: GlossyColours,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Paint nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> tuple[Any, ...]:
    """Paint a wall."""
    return source, colours, dry_run, as_json


def run(function: Any, *words: str) -> Any:
    """Run a function as a command, as the command line does."""
    app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)
    app.command("paint", cls=Command)(option_sets(function))
    app.command("other", cls=Command)(lambda: None)
    return app(["paint", *words], standalone_mode=False)


def test_a_command_gets_the_sets_that_it_names() -> None:
    """Guards: options that are shown and then not passed on, or defaults of the set that are lost."""
    assert run(paint, "kitchen", "-c", "red") == ("kitchen", GlossyColours(colour="red"), False, False)
    found = run(paint, "hall", "--colour", "blue", "--coats", "3", "--matt", "-n", "--json")
    assert found == ("hall", GlossyColours(colour="blue", coats=3, gloss=False), True, True)


def test_a_set_keeps_what_it_requires() -> None:
    """Guards: an option without a default that may be left out, because a set is built somewhere else."""
    with pytest.raises(UsageError) as missing:
        run(paint, "kitchen")
    assert str(explained(missing.value)).startswith("missing option '--colour'")


def test_an_option_that_stands_twice_is_refused() -> None:
    """Guards: a set that silently takes the value of another's option of the same name."""

    def twice(colours: Colours, colour: Annotated[str, typer.Option("--colour")] = "") -> None:
        pass

    with pytest.raises(ValueError, match="colour"):
        option_sets(twice)


def help_of(function: Any, width: int = 80) -> list[str]:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(cls=Command)(option_sets(function))
    command = typer.main.get_command(app)
    with typer.Context(command, info_name="paint", terminal_width=width) as context:
        return command.get_help(context).splitlines()


def test_options_of_a_set_stand_under_its_heading() -> None:
    """Guards: forty options in one list, where nobody finds what belongs together."""
    lines = help_of(paint)
    headings = [line.removesuffix(":") for line in lines if line and not line.startswith((" ", "Usage"))]
    assert headings == ["Arguments", "Options", "Paint"]
    options, panel = lines.index("Options:"), lines.index("Paint:")
    for name, first, last in (("--dry-run", options, panel), ("--coats", panel, len(lines))):
        (place,) = [n for n, line in enumerate(lines) if name in line]
        assert first < place < last
    # Help begins in the same column everywhere.
    assert len({line.index(word) for line in lines for word in ("What ", "How ", "Paint nothing") if word in line}) == 1


def sets(kind: type[OptionSet] = OptionSet) -> list[type[OptionSet]]:
    return [one for below in kind.__subclasses__() for one in (below, *sets(below))]


def test_headings_are_declared_as_python_3_10_reads_them() -> None:
    """Guards: a command line that does not start there, which takes a bare ClassVar for no annotation."""
    import llm4dsr_cli.commands  # noqa: F401 - declares them all

    declared = {one.__name__: one.__annotations__.get("heading", "ClassVar[str]") for one in sets()}
    assert len(declared) > 10
    assert {*declared.values()} == {"ClassVar[str]"}, declared


def failing(error: Exception) -> Any:
    def fail(
        source: Annotated[str, typer.Argument(metavar="WALL...")],
        colours: GlossyColours,
        dry_run: Annotated[bool, typer.Option("-n", "--dry-run")] = False,
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("`coats` is 1.5", "--coats is 1.5"),
        ("`colour` and `gloss` contradict each other", "--colour and --gloss contradict each other"),
        ("leave out `dry_run`, or `as_json`", "leave out --dry-run, or --json"),
        ("`source` is a pipe", "WALL is a pipe"),
        ("`brush` is no option of this command", "`brush` is no option of this command"),
        ("run `llm4dsr paint --coats 2`", "run `llm4dsr paint --coats 2`"),
        (
            "`coats` stands for 'coats', `coats.colour` for itself",
            "--coats stands for 'coats', `coats.colour` for itself",
        ),
    ],
)
def test_arguments_of_the_library_are_flags_of_the_command(said: str, shown: str) -> None:
    """Guards: a sentence that names ``max_edits`` to somebody who typed ``--max-edits``."""
    for kind in (Llm4dsrError, OptionError, ModelError):
        error = kind(said, where=said, remedy=said)
        with pytest.raises(kind) as raised:
            run(failing(error), "kitchen", "-c", "red")
        assert type(raised.value) is kind, "the exit code depends on it"
        assert (raised.value.where, raised.value.what, raised.value.remedy) == (shown, shown, shown)
        assert str(raised.value) == f"{shown}: {shown}: {shown}"


def test_an_error_with_a_constructor_of_its_own_is_translated_too() -> None:
    """Guards: a traceback from building the error anew, with arguments that it does not have."""
    with pytest.raises(MissingExtraError) as raised:
        run(failing(MissingExtraError("paint", "`gloss`")), "kitchen", "-c", "red")
    assert str(raised.value) == "--gloss is not installed: pip install 'llm4dsr-cli[paint]'"


def test_parts_that_are_not_known_stay_unknown() -> None:
    """Guards: "None" in a sentence."""
    with pytest.raises(RecordError) as raised:
        run(failing(RecordError("`coats`")), "kitchen", "-c", "red")
    assert (raised.value.where, raised.value.what, raised.value.remedy) == (None, "--coats", None)
    assert str(raised.value) == "--coats"


def test_nothing_is_translated_outside_a_command() -> None:
    """Guards: flags of the last command in the messages of a program that uses the library."""
    assert run(paint, "kitchen", "-c", "red")
    assert in_flags("`coats`") == "`coats`"
    error = OptionError("`coats` is 0")
    assert str(error) == "`coats` is 0"


def test_messages_name_flags_as_errors_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards: ``items_field`` in the lines that tell of skipped records, which are errors that nobody raises."""

    def tell(colours: Colours) -> None:
        console = Console(reword=in_flags)
        console.warn("name it with `colour`")
        console.say("or leave out `coats`")

    run(tell, "-c", "red")
    assert capsys.readouterr().err == "name it with --colour\nor leave out --coats\n"
