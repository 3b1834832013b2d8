"""The audit, read again: what was edited in each record, for whoever looks at it or takes it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NoReturn, TypeVar, cast, get_args

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.edits import PROBABILITY_FIELD, Action
from llm4dsr_cli.records.json_lines import kind, quote
from llm4dsr_cli.records.json_objects import parse_object
from llm4dsr_cli.records.logs.patches import LINES, PATCH, WHOLE
from llm4dsr_cli.records.names import Names
from llm4dsr_cli.records.reader import LineReader

# What the place of a record that was gathered from a log says, before its number: x.csv sequence:7.
SEQUENCE = "sequence"
_BATCH = 1024  # lines
_NUMBER = (int, float)
_TEXT_OR_NOTHING = (str, type(None))
T = TypeVar("T")


@dataclass(frozen=True)
class AuditedProposal:
    """What was proposed in an item's place.

    Attributes:
        accepted: whether it took the place.
        title: of the proposed item.
        noise_probability: of the proposed item in that place.
        proposer: who proposed it.
        scores: the proposer's, by their names.
    """

    accepted: bool
    title: str
    noise_probability: float
    proposer: str
    scores: dict[str, float]


@dataclass(frozen=True)
class AuditedEdit:
    """One edit, as its audit line tells.

    Attributes:
        position: of the item in the record, from 0.
        title: of the item; None where it had none.
        noise_probability: of the item.
        threshold: noise probability above which items were flagged.
        to: the item that took its place, for "replace".
        proposal: what was proposed, taken or not; None where nothing was.
    """

    position: int
    action: Action
    title: str | None
    noise_probability: float
    threshold: float
    to: Any = None
    proposal: AuditedProposal | None = None


@dataclass(frozen=True)
class Original:
    """What it takes to make a record's line again.

    Attributes:
        line: before the edits, without its newline.
        items_field, titles_field: as for ``RecordFormat``.
        parallel: the names that lead to each list that ran parallel to the items.
        added: the fields that were appended to every record of the run.
    """

    line: bytes
    items_field: str
    titles_field: str | None
    parallel: list[Names]
    added: list[str]


@dataclass(frozen=True)
class AuditedRecord:
    """A record that was edited.

    Attributes:
        where: the place of its first line in the audit, ``file:line``.
        record: the place where it was read, ``file:line``.
        output_line: number of its line in the output, from 1; of a log the number of the sequence.
        user: whose it is, as the record says; None where it does not.
        edits: in the order of their positions; one at least.
        titles: of all its items, None for an item without one; None as a whole in older audits, which have the edited
            titles alone.
        chances: noise probabilities of all items, None for one that nobody judged; likewise.
        expected_precision: share of the run's edits that is right, by the share of the data that is noise ("0.05").
        original: for undo; None where the record was no line, and in older audits.
    """

    where: str
    record: str
    output_line: int
    user: Any
    edits: list[AuditedEdit]
    titles: list[str | None] | None
    chances: list[float | None] | None
    expected_precision: dict[str, float] | None
    original: Original | None

    @property
    def unit(self) -> str:
        """What ``output_line`` numbers, in a word: lines, or of a log, in which a record has no line, sequences."""
        return SEQUENCE if self.record.rpartition(":")[0].endswith(f" {SEQUENCE}") else "line"

    @property
    def user_text(self) -> str:
        """The user as people read it; empty where the record names nobody."""
        return "" if self.user is None else self.user if isinstance(self.user, str) else str(self.user)


def read_audit(reader: LineReader) -> Iterator[AuditedRecord]:
    """The edited records of an audit, in order, each with all its edits.

    What takes the rows of a log back, and what tells the output from others, is left out.

    Raises:
        RecordError: a line is none that ``clean`` or ``apply`` write, two lines tell of the same item, or they are not
            in the order of the output.
    """
    last = 0
    objects = (
        (parse_object(line, f"{reader.name}:{number}", RecordError), f"{reader.name}:{number}")
        for batch in reader.batches(_BATCH)
        for number, line in batch
    )
    parsed = (_Line.of(data, where) for data, where in objects if not {PATCH, WHOLE, LINES} & data.keys())
    for number, group in groupby(parsed, lambda line: line.output_line):
        lines = list(group)
        if number < last:
            lines[0].refuse(f"tells of line {number} of the output after line {last}")
        last = number
        yield _record(lines)


def _record(lines: list[_Line]) -> AuditedRecord:
    first, edits = lines[0], [line.edit() for line in lines]
    titles, chances = first.sequence()
    for line, edit in zip(lines, edits, strict=True):
        if sum(other.position == edit.position for other in edits) > 1:
            line.refuse(f'"position" {edit.position} is there twice for line {first.output_line} of the output')
        if titles is not None and edit.position >= len(titles):
            line.refuse(f'"position" is {edit.position}, and the record has {len(titles)} items')
    return AuditedRecord(
        first.where,
        first.get("record", str),
        first.output_line,
        first.data.get("user"),
        sorted(edits, key=lambda edit: edit.position),
        titles,
        chances,
        first.expected(),
        first.original(),
    )


@dataclass(frozen=True)
class _Line:
    """A line of an audit, whose values are checked when they are asked for."""

    data: dict[str, Any]
    where: str
    output_line: int

    @classmethod
    def of(cls, data: dict[str, Any], where: str) -> _Line:
        return cls(data, where, cls(data, where, 0).count("output_line", 1))

    def refuse(self, what: str) -> NoReturn:
        raise RecordError(what, where=self.where, remedy="give a file that `clean` or `apply` wrote with --audit")

    def get(self, name: str, types: type[T] | tuple[type, ...], data: dict[str, Any] | None = None) -> T:
        """A value of these types; of the line, or of an object in it."""
        data = self.data if data is None else data
        if name not in data:
            self.refuse(f"{quote(name)} is missing")
        value = data[name]
        if not isinstance(value, types) or isinstance(value, bool):
            self.refuse(f"{quote(name)} is {kind(value)}")
        return cast(T, value)

    def count(self, name: str, least: int) -> int:
        value = self.get(name, int)
        if value < least:
            self.refuse(f"{quote(name)} is {value}")
        return value

    def chance(self, name: str, data: dict[str, Any] | None = None) -> float:
        value: float = self.get(name, _NUMBER, data)
        if not 0 <= value <= 1:
            self.refuse(f"{quote(name)} is {value:g}, no probability")
        return value

    def edit(self) -> AuditedEdit:
        action = self.get("action", str)
        if action not in get_args(Action):
            self.refuse(f'"action" is {quote(action)}')
        return AuditedEdit(
            self.count("position", 0),
            cast(Action, action),
            self.get("title", _TEXT_OR_NOTHING),
            self.chance(PROBABILITY_FIELD),
            self.chance("threshold"),
            self.data.get("to"),
            self._proposal(accepted=action == "replace"),
        )

    def _proposal(self, *, accepted: bool) -> AuditedProposal | None:
        name = "replacement" if accepted else "refused"
        if not accepted and name not in self.data:
            return None
        about = self.get(name, dict)
        title, proposer = self.get("title", str, about), self.get("proposer", str, about)
        others = about.keys() - {"title", "proposer", PROBABILITY_FIELD}
        scores: dict[str, float] = {other: self.get(other, _NUMBER, about) for other in sorted(others)}
        return AuditedProposal(accepted, title, self.chance(PROBABILITY_FIELD, about), proposer, scores)

    def sequence(self) -> tuple[list[str | None] | None, list[float | None] | None]:
        if "sequence" not in self.data:
            return None, None
        about = self.get("sequence", dict)
        titles, chances = self.get("titles", list, about), self.get(PROBABILITY_FIELD, list, about)
        if len(titles) != len(chances):
            self.refuse(f'"titles" has {len(titles)} entries, {quote(PROBABILITY_FIELD)} {len(chances)}')
        for title, chance in zip(titles, chances, strict=True):
            self.get("titles", _TEXT_OR_NOTHING, {"titles": title})
            if chance is not None:
                self.chance(PROBABILITY_FIELD, {PROBABILITY_FIELD: chance})
        return titles, chances

    def expected(self) -> dict[str, float] | None:
        if "expected_precision" not in self.data:
            return None
        about = self.get("expected_precision", dict)
        return {noise: self.chance(noise, about) for noise in about}

    def original(self) -> Original | None:
        if "undo" not in self.data:
            return None
        about = self.get("undo", dict)
        parallel, added = self.get("parallel", list, about), self.get("added", list, about)
        for names in (added, *parallel):
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                self.refuse('"undo" has a name that is no string')
        return Original(
            self.get("line", str, about).encode(),
            self.get("items_field", str, about),
            self.get("titles_field", _TEXT_OR_NOTHING, about),
            [tuple(names) for names in parallel],
            added,
        )
