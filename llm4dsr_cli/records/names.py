"""Names: the way to a value in a record, from the outermost object on, and what a person calls it."""

from __future__ import annotations

from typing import Any

Names = tuple[str, ...]


def names_of(data: dict[str, Any], name: str) -> Names:
    """The names that lead to what a person calls ``name``: a field, or ``outer.inner``."""
    return (name,) if name in data else tuple(name.split("."))


def find(data: dict[str, Any], name: str) -> tuple[Names, Any] | None:
    """The names that lead to what a person calls ``name``, and the value; None where there is none."""
    names = names_of(data, name)
    value: Any = data
    for part in names:
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return names, value


def value_at(data: dict[str, Any], names: Names) -> Any:
    """The value to which the names lead. Raises KeyError where there is none."""
    value: Any = data
    for name in names:
        value = value[name]
    return value


def put_at(data: dict[str, Any], names: Names, value: Any) -> None:
    """Put a value where the names lead; the inner objects on the way are copied first."""
    for name in names[:-1]:
        data[name] = dict(data[name])
        data = data[name]
    data[names[-1]] = value
