"""Records that do not say whose sequence they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm4dsr_cli.console import Console


def warn_of_nameless(console: Console, count: int, user_field: str, otherwise: str) -> None:
    """Say how many records name no user, and what follows if users have several of them."""
    if count:
        console.warn(
            f'{count:,} records have no "{user_field}": each counts as a user of its own; '
            f"if users have several records, name the field with --user-field, or {otherwise}"
        )
