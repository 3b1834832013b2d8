"""Sets of options: declared once as a dataclass, and taken by any command that names the dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, fields
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_type_hints

T = TypeVar("T")


class OptionSet:
    """Base of the sets: a frozen dataclass whose fields are annotated as parameters of a Typer command are.

    ``heading`` stands above the options in the help. A set may extend another one.
    """

    heading: ClassVar[str]

    def inputs(self) -> dict[str, str]:
        """Path by option of what the run reads, and no output may overwrite."""
        return {}


def option_sets(command: Callable[..., T]) -> Callable[..., T]:
    """Let a command take option sets: in its signature, each parameter that is one gives way to the set's fields.

    The function itself is called with instances. Its annotations have to be known at run time. Idea:
    sqlite-utils' ``insert_upsert_options``, which adds shared options to a command.
    """
    # Not get_type_hints, which makes None a part of the annotation where it is the default (before Python 3.11).
    own = inspect.signature(command, eval_str=True).parameters.values()
    sets = {one.name: one.annotation for one in own if _is_set(one.annotation)}
    taken: list[inspect.Parameter] = []
    for one in own:
        taken += parameters(one.annotation) if one.name in sets else [_parameter(one.name, one.default, one.annotation)]

    @functools.wraps(command)
    def run(**values: Any) -> T:
        built = {name: kind(**{one.name: values.pop(one.name) for one in fields(kind)}) for name, kind in sets.items()}
        return command(**values, **built)

    run.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
    return run


def _is_set(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, OptionSet)


def parameters(kind: Any) -> list[inspect.Parameter]:
    """One for each field of a set, the heading of the set that it was first in noted where Typer keeps it."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in fields(kind):
        python_type, info = get_args(hints[field.name])
        info = copy(info)
        first = next(one for one in reversed(kind.__mro__) if field.name in inspect.get_annotations(one))
        info.rich_help_panel = getattr(first, "heading", kind.heading)
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        found.append(_parameter(field.name, default, Annotated[python_type, info]))
    return found


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    # By keyword, as Typer calls a command: so one without a default may follow one that has it.
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
