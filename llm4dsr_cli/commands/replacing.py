"""What ``--action replace`` needs: candidates, and somebody who proposes them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from llm4dsr_cli.commands.inputs import is_pipe
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.commands.gating import Gating
    from llm4dsr_cli.gate.evidence import Evidence
    from llm4dsr_cli.records.edits import Fallback
    from llm4dsr_cli.records.record import Record
    from llm4dsr_cli.replacing.candidates import Candidates
    from llm4dsr_cli.replacing.generate.suggester import Suggester
    from llm4dsr_cli.replacing.proposals import Proposer
    from llm4dsr_cli.replacing.replacer import Replacer

PROPOSERS = ("counts", "generate")


def default_action(source: str, catalog: str | None, gate: str | None) -> str:
    """The action where none is given: to replace, where that does not take a pipe to be read twice."""
    return "drop" if is_pipe(source) and (catalog is None or gate is None) else "replace"


@dataclass
class Replacing:
    """The options of replacement, checked.

    Raises OptionError for those that make no sense, or that would take a pipe to be read twice.
    """

    gating: Gating
    proposer: str | None
    fallback: str | None

    def __post_init__(self) -> None:
        wanted = self.gating.action == "replace"
        for name, value, choices in (
            ("--proposer", self.proposer, PROPOSERS),
            ("--fallback", self.fallback, ("drop", "keep")),
        ):
            if value is not None and value not in choices:
                raise OptionError(f"{name} {value}: no such one", remedy=f"choose {' or '.join(choices)}")
            if value is not None and not wanted:
                raise OptionError(f"{name} says how to replace", remedy="give --action replace, or leave it out")
        self.kept: Fallback = cast("Fallback", self.fallback or "drop")
        if not (wanted and is_pipe(self.gating.source[1])):
            return
        if self.gating.catalog is None:
            raise OptionError(
                "--action replace without a catalog reads the input twice, and a pipe can be read once",
                remedy="give --catalog, or a file",
            )
        if self._counts_input:
            raise OptionError(
                "--proposer counts counts the input before it cleans it, and a pipe can be read once",
                remedy="give a file, counts with --gate, or --proposer generate",
            )

    @property
    def _counts_input(self) -> bool:
        return self.proposer != "generate" and self.gating.gate_file is None

    def make(
        self, max_window: int, suggester: Callable[[], Suggester], stack: ExitStack, say: Callable[[str], None]
    ) -> Replacer | None:
        """The replacer of the options; None for another action.

        Args:
            max_window: of the denoiser.
            suggester: loads it; asked for only where it is needed.
            stack: closes the suggester.
        """
        if self.gating.action != "replace":
            return None
        from llm4dsr_cli.replacing.candidates import Candidates
        from llm4dsr_cli.replacing.counts_proposer import CountsProposer
        from llm4dsr_cli.replacing.generate.suggester import GeneratingProposer
        from llm4dsr_cli.replacing.replacer import Replacer

        candidates = None if self.gating.titles is None else Candidates.from_catalog(self.gating.titles)
        evidence = None if self.gating.gate_file is None else self.gating.gate_file.evidence
        if candidates is None or self._counts_input:
            say(f"reading {self.gating.source[1]} for the items that may replace others ...")
            counted, seen = self._read(count=self._counts_input)
            candidates, evidence = candidates or seen, counted or evidence
        proposer: Proposer
        if self.proposer == "generate":
            proposer = GeneratingProposer(stack.enter_context(suggester()), candidates)
        else:
            assert evidence is not None
            proposer = CountsProposer(evidence, candidates)
        return Replacer(proposer, candidates, max_window, user_of=self._user_of)

    def _user_of(self, record: Record) -> Hashable:
        from llm4dsr_cli.records.record import user_of

        assert self.gating.user_field is not None
        return user_of(record, self.gating.user_field)

    def _read(self, *, count: bool) -> tuple[Evidence | None, Candidates]:
        """What the input holds: who has what, if that is to be counted, and all items."""
        from llm4dsr_cli.gate.evidence import Evidence
        from llm4dsr_cli.records.reader import LineReader, read_records
        from llm4dsr_cli.records.record import OnError
        from llm4dsr_cli.replacing.candidates import Candidates
        from llm4dsr_cli.scores import BATCH_RECORDS

        candidates = Candidates()
        # The second pass tells of what is skipped.
        quietly: OnError | None = (lambda error, line: None) if self.gating.rejects else None

        def records() -> Iterator[Record]:
            with LineReader.open(self.gating.source[1]) as reader:
                for batch in read_records(reader, BATCH_RECORDS, self.gating.form, self.gating.titles, quietly):
                    for record in batch:
                        candidates.add_items(record)
                        yield record

        if count:
            return Evidence.count((self._user_of(record), record.titles) for record in records()), candidates
        for _ in records():
            pass
        return None, candidates
