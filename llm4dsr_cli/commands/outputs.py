"""The outputs of ``llm4dsr clean`` and ``llm4dsr apply``: checked before anything is loaded, written together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from llm4dsr_cli.commands.inputs import exit_code, skipping
from llm4dsr_cli.commands.options import OutputOptions, RejectOptions, given
from llm4dsr_cli.commands.project_command import taken_from_file

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Advance, Console
    from llm4dsr_cli.records.edits import EditedRecord
    from llm4dsr_cli.records.reader import LineReader
    from llm4dsr_cli.records.record import OnError, R


class Outputs:
    """Where the records, the audit, the report and the rejects of one run go.

    Args:
        inputs: by option, the files that no output may overwrite.

    Raises:
        OptionError: an output would overwrite an input or another output, or rejects have no place to go.
        OutputError: an output cannot be written.
    """

    def __init__(
        self,
        target: str,
        options: OutputOptions,
        errors: RejectOptions,
        inputs: Mapping[str, str],
        gate: str | None,
    ) -> None:
        from llm4dsr_cli.records.writer import OutputFile, check_paths

        self.began = time.monotonic()
        self.seconds = 0.0
        self.annotate = options.annotate
        self.gate = gate
        self.rejects = errors.path(target)
        paths = {"OUT": target, **options.outputs(), **given({"--rejects": self.rejects})}
        check_paths(inputs, paths)
        self._source = ""
        self._target = target
        self._files = {name: OutputFile(path) for name, path in paths.items()}

    def take_back_to(self, source: str, *, asks_format: bool = False) -> None:
        """Let OUT be what ``source`` is: where that is ``Gathered``, the log again. Raises OptionError: see
        ``check_ending``."""
        from llm4dsr_cli.records.logs.gathered import check_ending

        check_ending(self._target, source, asks_format=asks_format)
        self._source = source

    @property
    def appears_whole(self) -> bool:
        """Whether OUT is still what it was, and will be new only when all of it is written."""
        return self._files["OUT"].appears_whole

    @contextmanager
    def told_of_interrupts(self) -> Iterator[None]:
        """Let an interrupt in the block say that no output was written, unless it says more already."""
        try:
            yield
        except KeyboardInterrupt as error:
            if self.appears_whole and not error.args:
                raise KeyboardInterrupt("interrupted: nothing was written") from None
            raise

    def run(
        self,
        reader: LineReader,
        cleaner: Cleaner[R],
        batches: Callable[[OnError | None], Iterator[list[R]]],
        console: Console,
    ) -> int:
        """Clean all records and write all outputs; the exit code.

        Args:
            batches: records of ``reader``; its argument is for lines that are no records.
        """
        with self.open():
            self.write(reader, cleaner, batches, console)
        return self.tell(cleaner, console)

    def open(self) -> AbstractContextManager[None]:
        """Open all outputs; they appear when the block ends without an exception."""
        from llm4dsr_cli.records.writer import together

        # Rejects are made even if there are none: those of an earlier run must not pass for this one's.
        return together([*self._files.values()])

    def skipping(self, counts: RunCounts, console: Console) -> OnError | None:
        """For ``on_error``: counts, keeps and tells of lines that are no records; None where an error is to stop."""
        return skipping(counts, self._files.get("--rejects"), console)

    def write(
        self,
        reader: LineReader,
        cleaner: Cleaner[R],
        batches: Callable[[OnError | None], Iterator[list[R]]],
        console: Console,
    ) -> None:
        """Clean all records and write them into outputs that are open; see ``run``."""
        import orjson

        from llm4dsr_cli.cleaning.report import report
        from llm4dsr_cli.records.logs.gathered import log_changes
        from llm4dsr_cli.records.logs.patches import LINES, Digest

        out, audit = self._files["OUT"], self._files.get("--audit")
        written = Digest(out.write_bytes)
        log = log_changes(self._source, cleaner.cleaning.catalog)
        with console.progress() as advance:
            on_error = self.skipping(cleaner.counts, console)
            for results in _telling(cleaner.clean(batches(on_error), on_error), cleaner, reader, advance):
                for result in results:
                    if log is None:
                        written.write(result.line + b"\n")
                    else:
                        log.take(result.before, result.line)
                    if audit:
                        for line in result.audit:
                            audit.write(line)
                out.flush()
                if audit:
                    audit.flush()
            if cleaner.cleaning.coverage is not None:
                cleaner.cleaning.coverage.check()
            if log is not None:
                log.write(out, audit)
            elif audit:
                audit.write(written.line(LINES))
            self.seconds = time.monotonic() - self.began
            if to := self._files.get("--report"):
                told = report(cleaner, self.seconds, self.gate) | {"config": taken_from_file()}
                to.write(orjson.dumps(told, option=orjson.OPT_INDENT_2))

    def tell(self, cleaner: Cleaner[R], console: Console) -> int:
        """Say what was done; the exit code."""
        from llm4dsr_cli.cleaning.report import notes, summary, warnings
        from llm4dsr_cli.records.logs.gathered import can_be_undone

        for warning in warnings(cleaner):
            console.warn(warning)
        for note in notes(cleaner):
            console.say(note)
        console.say(summary(cleaner, self.seconds))
        if "--audit" in self._files and not can_be_undone(self._source):
            console.say("`llm4dsr undo` cannot take edits of Parquet back, whatever the audit tells: keep the input")
        return exit_code(cleaner.counts, self.rejects, console)


def _telling(
    batches: Iterator[list[EditedRecord]], cleaner: Cleaner[R], reader: LineReader, advance: Advance
) -> Iterator[list[EditedRecord]]:
    """The batches; tells the progress bar after each of them was used."""
    began = time.monotonic()
    for batch in batches:
        yield batch
        speed = cleaner.counts.records / max(1e-6, time.monotonic() - began)
        advance(f"{cleaner.counts.records:,} records, {speed:.0f}/s", reader.fraction)
