"""The scored record: a line with its items' noise probabilities at its end, and back.

A scored line is the original line with two fields put in front of its closing brace,
``,"noise_probability":[...],"noise_model":"<first 12 hexadecimal digits of the denoiser file's SHA-256>"``. Taking them
out gives the original line again, byte for byte. The probability of an item that nobody could judge is null. Where the
newest item stands first, or some items are padding, the second field says so behind the digits. A line that another
program (jq, pandas) has written again, with other blanks, another order or more fields, is read too: its
original is then the line without the two fields.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import orjson

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records import splice
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.edits import PROBABILITY_FIELD
from llm4dsr_cli.records.json_lines import kind, quote, quote_names
from llm4dsr_cli.records.json_objects import parse_object
from llm4dsr_cli.records.parsing import parse_record, record_of
from llm4dsr_cli.records.record import Record, refuse_fields
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.scores import Scores, log_odds_from, shortest_probabilities
from llm4dsr_cli.sequences import ItemSequence

MODEL_FIELD = "noise_model"
MODEL_DIGITS = 12
_OPENING = f',"{PROBABILITY_FIELD}":['.encode()
_WHITESPACE = b" \t\r\n"
_AGAIN = "score the records again with `llm4dsr score`"
_NEWEST_FIRST, _PADDED = "newest-first", "padded"
# How a record may be read, and what to do where the one who scored it did, and the one who reads its scores does not.
_READINGS = {
    _NEWEST_FIRST: "give `newest_first`, as to `llm4dsr score`",
    _PADDED: "give its `padding_id`, as to `llm4dsr score`",
}


@dataclass(slots=True)
class ScoredRecord(Record):
    """A record whose ``line`` and ``data`` are those that were scored, without the two fields.

    Attributes:
        log_odds: canonical noise log-odds, float32, shape (n_items,); NaN for items that nobody judged.
        model: first digits of the SHA-256 of the denoiser that gave them.
    """

    log_odds: Scores
    model: str

    def sequence(self, user_field: str) -> ItemSequence:
        """As for ``Record``, with the scores that were kept."""
        return replace(Record.sequence(self, user_field), log_odds=self.log_odds[list(self.order)])


def scored_line(record: Record, log_odds: Scores, sha256: str) -> bytes:
    """The record's line with its noise probabilities, without a newline.

    Args:
        log_odds: noise log-odds, shape (n_items,); NaN for an item that nobody judged.
        sha256: of the denoiser's file.

    Raises:
        RecordError: the record came as an object that cannot be written as JSON.
    """
    line = record.render()
    chances = scores_line(log_odds)
    body = line.rstrip(_WHITESPACE)
    end = f',"{MODEL_FIELD}":"{" ".join([sha256[:MODEL_DIGITS], *_reading(record)])}"'.encode()
    return b"".join([body[:-1], _OPENING[:-1], chances, end, line[len(body) - 1 :]])


def scores_line(log_odds: Scores) -> bytes:
    """A record's noise log-odds, shape (n_items,), as a JSON list of probabilities; null for NaN."""
    return orjson.dumps(shortest_probabilities(log_odds), option=orjson.OPT_SERIALIZE_NUMPY)


def with_scores(record: Record, line: bytes, model: str) -> ScoredRecord:
    """A record with the scores of a line that ``scores_line`` wrote for it.

    Raises:
        RecordError: the line was not written for this record.
    """
    try:
        chances = orjson.loads(line)
    except orjson.JSONDecodeError:
        chances = None
    end = {PROBABILITY_FIELD: chances, MODEL_FIELD: model[:MODEL_DIGITS]}
    checked, digits, *_ = _checked(end, record.where, "the record", len(record.titles))
    return _scored(record, checked, digits)


def _reading(record: Record) -> list[str]:
    """How a record is read that does not begin with its oldest item, or holds padding; keys of _READINGS."""
    order = [*record.order]
    is_so = {_NEWEST_FIRST: order != sorted(order), _PADDED: len(order) < len(record.titles)}
    return [way for way, holds in is_so.items() if holds]


def _scored(record: Record, chances: list[float | None], model: str) -> ScoredRecord:
    log_odds = log_odds_from(np.array(chances, dtype=np.float64))  # NaN for None
    for position in np.flatnonzero(np.isnan(log_odds)).tolist():
        if record.titles[position] is not None:
            record.titles[position], record.lacks[position] = None, "no score"
    parts = {one.name: getattr(record, one.name) for one in fields(record) if one.init}
    return ScoredRecord(**parts, log_odds=log_odds, model=model)


def parse_unscored(line: bytes, where: str, record_format: RecordFormat, catalog: Catalog | None) -> Record:
    """``parse_record`` for a line that is to be scored.

    Raises RecordError as that does, and when the record has one of the two fields already.
    """
    record = parse_record(line, where, record_format, catalog)
    refuse_fields(record.data, (PROBABILITY_FIELD, MODEL_FIELD), where)
    return record


def parse_scored(line: bytes, where: str, record_format: RecordFormat, catalog: Catalog | None) -> ScoredRecord:
    """Read a line that ``scored_line`` wrote, or that another program made of one.

    The record's ``line`` is the one that was scored, byte for byte; where another program has written the line again,
    it is that line without the two fields.

    Raises:
        RecordError: one of the two fields is missing, there is not one probability for each item, or a value is none;
            the record was read in another order, or with padding, when it was scored; and as ``parse_record`` does.
    """
    split = _split(line)
    if split is not None:
        original, end = split
        data = parse_object(original, where, RecordError)
        refuse_fields(data, (PROBABILITY_FIELD, MODEL_FIELD), where)
    else:
        data = parse_object(line, where, RecordError)
        end = {name: data.pop(name) for name in (PROBABILITY_FIELD, MODEL_FIELD) if name in data}
        missing = next((name for name in (PROBABILITY_FIELD, MODEL_FIELD) if name not in end), None)
        if missing is not None:
            names = quote_names([*data, *end]) or "none"
            raise RecordError(
                f"{quote(missing)} is missing, the fields are {names}",
                where=where,
                remedy="run `llm4dsr score` first" if not end else _AGAIN,
            )
        original = splice.changed(line, {}, (PROBABILITY_FIELD, MODEL_FIELD))
    record = record_of(data, where, record_format, catalog, line=original)
    chances, model, *reading = _checked(end, where, quote(record_format.items_field), len(record.titles))
    for way, remedy in _READINGS.items():
        if way in reading and way not in _reading(record):
            raise RecordError(f"was scored {way}, and is not read so", where=where, remedy=remedy)
    return _scored(record, chances, model)


def original_line(line: bytes) -> bytes | None:
    """The line that ``scored_line`` was given, or None when it did not write this one."""
    split = _split(line)
    return None if split is None else split[0]


def _split(line: bytes) -> tuple[bytes, dict[str, Any]] | None:
    """Original line and the two fields of a line as ``scored_line`` writes it, None for another one."""
    at = line.rfind(_OPENING)
    if at < 0:
        return None
    body = line.rstrip(_WHITESPACE)
    try:
        end = orjson.loads(b"{" + body[at + 1 :])
    except orjson.JSONDecodeError:
        return None
    # Two fields and nothing else: with that, and the brace that closes them, they are the line's last two.
    if not isinstance(end, dict) or list(end) != [PROBABILITY_FIELD, MODEL_FIELD]:
        return None
    return line[:at] + line[len(body) - 1 :], end


def _checked(end: dict[str, Any], where: str, items: str, n_items: int) -> tuple[Any, ...]:
    """Noise probabilities, denoiser, and how the record was read, of the two fields."""
    chances, model = end[PROBABILITY_FIELD], end[MODEL_FIELD]
    name = quote(PROBABILITY_FIELD)
    if not isinstance(chances, list):
        raise RecordError(f"{name} is {kind(chances)} where a list should be", where=where, remedy=_AGAIN)
    if len(chances) != n_items:
        raise RecordError(f"{name} has {len(chances)} entries, {items} {n_items}", where=where, remedy=_AGAIN)
    for place, chance in enumerate(chances):
        if chance is not None and (type(chance) not in (int, float) or not 0 <= chance <= 1):
            shown = quote(chance) if isinstance(chance, (int, float, str)) else kind(chance)
            raise RecordError(f"{name}[{place}] is {shown}, no probability", where=where, remedy=_AGAIN)
    digits, *reading = model.split(" ") if isinstance(model, str) else [""]
    if len(digits) != MODEL_DIGITS or not {*reading} <= {*_READINGS}:
        shown = quote(model) if isinstance(model, (int, float, str)) else kind(model)
        raise RecordError(
            f"{quote(MODEL_FIELD)} is {shown} where {MODEL_DIGITS} hexadecimal digits should be",
            where=where,
            remedy=_AGAIN,
        )
    return chances, digits, *reading
