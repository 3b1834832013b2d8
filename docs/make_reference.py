"""Writes ``docs/reference.md`` from the commands' own help; ``--check`` only says whether it is up to date."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# Help texts are wrapped to the terminal; the page must not depend on it.
os.environ.update(COLUMNS="100", TERMINAL_WIDTH="100", NO_COLOR="1")

import typer
import typer.main

from llm4dsr_cli.commands import app

PAGE = Path(__file__).with_name("reference.md")
HEAD = """# Command reference

Written by `docs/make_reference.py` from `--help`; do not edit.

Exit codes: 0 done, 1 failed, 2 usage, 3 finished but some records were skipped,
129 the terminal was closed, 130 interrupted,
141 the reader of the output left early, 143 terminated.
"""


def sections(command: Any, name: str, parent: typer.Context | None = None) -> list[str]:
    """One section for a command, and one for each of its subcommands."""
    context = typer.Context(command, parent, name, terminal_width=100, **command.context_settings)
    found = [f"\n## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n"]
    for child_name, child in getattr(command, "commands", {}).items():
        found += sections(child, child_name, context)
    return found


def main() -> None:
    page = HEAD + "".join(sections(typer.main.get_command(app), "llm4dsr"))
    if "--check" not in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit("docs/reference.md is not what --help says: run python docs/make_reference.py")


if __name__ == "__main__":
    main()
