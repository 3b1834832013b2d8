"""The summary of an audit: all that the page shows, as one JSON value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.audit import AuditedProposal, AuditedRecord, read_audit
from llm4dsr_cli.records.edits import PROBABILITY_FIELD
from llm4dsr_cli.records.json_lines import quote
from llm4dsr_cli.records.json_objects import parse_object
from llm4dsr_cli.records.reader import LineReader
from llm4dsr_cli.titles import clean_title

BINS = 40
MOST = 10  # items and users that are named
ACTIONS = ("drop", "replace", "mark")
_BATCH = 1024
# Of a longer sequence the page has the items so near to an edited one.
_WHOLE, _NEAR = 40, 12
_TITLE = 200  # characters of a title
_SAME = 1e-3  # probabilities that differ less are the same score


def summary(audit: str | Path, scored: str | Path | None = None) -> dict[str, Any]:
    """What the page of an audit shows.

    Args:
        audit: as ``clean`` or ``apply`` wrote it.
        scored: JSON lines with a list ``noise_probability`` in each, for the histogram of all items.

    Returns:
        A value for JSON. Titles and users are numbered, records and edits are lists, since there may be many:
        ``records`` has [number of the ``unit``, record, user, number of items, [[position, title, probability], ...]],
        and ``edits`` [record, position, action, title, probability, proposal]; -1 and null stand for nothing.

    Raises:
        RecordError: a line is none of an audit, or none with probabilities.
        Llm4dsrError: a file cannot be read.
    """
    found = _Found()
    with LineReader.open(audit) as reader:
        for record in read_audit(reader):
            found.add(record)
    about = None
    if scored is not None:
        found.histogram.clear()
        about = _scored(scored, found)
    chances = [edit[4] for edit in found.edits]
    return {
        "audit": str(audit),
        "unit": found.unit,
        "scored": about,
        "thresholds": sorted(found.thresholds),
        "expected": found.expected,
        "mean": round(sum(chances) / len(chances), 5) if chances else None,
        "actions": list(ACTIONS),
        "histogram": {"all": _bars(found.histogram), "edited": _bars(Counter(map(_bin, chances)))},
        "mostItems": [[title, n] for title, n in found.items.most_common(MOST)],
        "mostUsers": [[user, n] for user, n in found.users.most_common(MOST)],
        "users": len(found.users),
        "titles": list(found.titles),
        "records": found.records,
        "edits": found.edits,
    }


@dataclass
class _Found:
    """What was found so far; titles by their numbers."""

    titles: dict[str, int] = field(default_factory=dict)
    records: list[list[Any]] = field(default_factory=list)
    edits: list[list[Any]] = field(default_factory=list)
    items: Counter[int] = field(default_factory=Counter)
    users: Counter[str] = field(default_factory=Counter)
    histogram: Counter[int] = field(default_factory=Counter)
    thresholds: set[float] = field(default_factory=set)
    expected: dict[str, float] | None = None
    chances: dict[int, list[float | None]] = field(default_factory=dict)  # by the line that was read
    unit: str = "line"  # what the records' numbers count

    def add(self, record: AuditedRecord) -> None:
        number = len(self.records)
        self.unit = record.unit
        sequence = self._sequence(record)
        n_items = len(record.titles) if record.titles is not None else 0
        self.records.append([record.output_line, record.record, record.user_text, n_items, sequence])
        self.expected = self.expected or record.expected_precision
        for edit in record.edits:
            title = self._title(edit.title)
            action = ACTIONS.index(edit.action)
            proposal = None if edit.proposal is None else self._proposal(edit.proposal)
            self.edits.append([number, edit.position, action, title, edit.noise_probability, proposal])
            self.items[title] += 1
            self.thresholds.add(edit.threshold)
        if record.user_text:
            self.users[record.user_text] += len(record.edits)
        if record.chances is not None:
            self.histogram.update(_bin(chance) for chance in record.chances if chance is not None)
            place = record.record.rpartition(":")[2]
            if place.isdecimal():
                self.chances[int(place)] = record.chances

    def _title(self, title: str | None) -> int:
        if title is None:
            return -1
        title = clean_title(title)
        title = title if len(title) <= _TITLE else f"{title[: _TITLE - 1]}…"
        return self.titles.setdefault(title, len(self.titles))

    def _sequence(self, record: AuditedRecord) -> list[list[Any]]:
        if record.titles is None or record.chances is None:
            return []
        n = len(record.titles)
        places: Iterable[int] = range(n)
        if n > _WHOLE:
            near = {i for edit in record.edits for i in range(edit.position - _NEAR, edit.position + _NEAR + 1)}
            places = sorted(near.intersection(range(n)))
        return [
            [i, self._title(record.titles[i]), None if (chance := record.chances[i]) is None else round(chance, 4)]
            for i in places
        ]

    def _proposal(self, proposal: AuditedProposal) -> list[Any]:
        return [self._title(proposal.title), proposal.noise_probability, proposal.proposer, proposal.scores]


def _scored(scored: str | Path, found: _Found) -> dict[str, Any]:
    """Fills the histogram with the probabilities of a file, and says how they go with the audit's."""
    n_items, same = 0, True
    for number, chances in _probabilities(scored):
        judged = [chance for chance in chances if chance is not None]
        n_items += len(chances)
        found.histogram.update(map(_bin, judged))
        audited = found.chances.get(number, [])
        if len(audited) == len(chances):
            same &= all(
                one is None or other is None or abs(one - other) < _SAME
                for one, other in zip(audited, chances, strict=True)
            )
    return {"name": str(scored), "items": n_items, "same": same}


def _probabilities(scored: str | Path) -> Iterator[tuple[int, list[float | None]]]:
    with LineReader.open(scored) as reader:
        for batch in reader.batches(_BATCH):
            for number, line in batch:
                where = f"{reader.name}:{number}"
                chances = parse_object(line, where, RecordError).get(PROBABILITY_FIELD)
                if not isinstance(chances, list) or not all(map(_is_chance, chances)):
                    raise RecordError(
                        f"has no list of probabilities in {quote(PROBABILITY_FIELD)}",
                        where=where,
                        remedy="give what `llm4dsr score` wrote, or `clean` with --annotate",
                    )
                yield number, chances


def _is_chance(value: object) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)  # type: ignore[operator]


def _bin(chance: float) -> int:
    return min(BINS - 1, int(chance * BINS))


def _bars(counts: Counter[int]) -> list[int]:
    return [counts[number] for number in range(BINS)]
