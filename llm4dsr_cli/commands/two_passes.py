"""Cleaning files in two passes: score all of them, look at what an edit would do, and only then edit and write."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, cast

from llm4dsr_cli.commands.inputs import exit_code
from llm4dsr_cli.commands.options import ErrorOptions
from llm4dsr_cli.commands.outlook import surveyed
from llm4dsr_cli.errors import Llm4dsrError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.commands.cleaned_file import CleanedFile
    from llm4dsr_cli.commands.outputs import Outputs
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.model.denoiser import Denoiser
    from llm4dsr_cli.records.scored_line import ScoredRecord
    from llm4dsr_cli.sequences import ItemSequence


def clean_files(
    files: Sequence[CleanedFile],
    cleaning: Cleaning,
    errors: ErrorOptions,
    console: Console,
    *,
    resume: bool,
    examples: int,
) -> int:
    """Score the records of all files, say what edits would do, and clean them; the exit code.

    Args:
        errors: what happens to lines that are no records.
        resume: go on with the scores of an earlier run.
        examples: how many edits are shown before they are made.
    """
    began = time.monotonic()
    denoiser = cast("Denoiser", cleaning.scorer)
    done: list[tuple[Outputs, Cleaner[ScoredRecord]]] = []
    try:
        with ExitStack() as stack:
            for file in files:
                file.open(stack, denoiser, resume=resume, began=began)
            for file in files:
                file.score(cleaning, errors, console)
            scored = partial(_sequences, files, cleaning)
            cleaning = surveyed(cleaning, scored, console, examples)
            for file in files:
                if file.outputs is None:
                    file.keep_scores()
                    if file.scratch is not None:
                        console.say(f"the scores are kept in {file.scratch}.part: clean with --resume to use them")
                else:
                    done.append((file.outputs, file.write(file.outputs, cleaning, console)))
    except KeyboardInterrupt:
        nothing = all(file.outputs is None or file.outputs.appears_whole for file in files)
        told = "interrupted: nothing was written" if nothing else "interrupted"
        how = "; ".join(_how_to_go_on(files))
        raise KeyboardInterrupt(f"{told}: {how}" if how else told) from None
    except Llm4dsrError:
        for sentence in _how_to_go_on(files):
            console.say(sentence)
        raise
    codes = [outputs.tell(cleaner, console) for outputs, cleaner in done]
    return max(codes or [exit_code(file.counts, None, console) for file in files])


def _how_to_go_on(files: Sequence[CleanedFile]) -> list[str]:
    return [sentence for file in files for sentence in file.how_to_go_on()]


def _sequences(files: Sequence[CleanedFile], cleaning: Cleaning) -> Iterator[ItemSequence]:
    for file in files:
        yield from file.sequences(cleaning)
