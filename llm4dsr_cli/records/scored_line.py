"""The scored record: a line with its items' noise probabilities at its end, and back.

A scored line is the original line with two fields put in front of its closing brace,
``,"noise_probability":[...],"noise_model":"<first 12 hexadecimal digits of the denoiser file's SHA-256>"``. Taking them
out gives the original line again, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.edits import PROBABILITY_FIELD
from llm4dsr_cli.records.json_lines import quote
from llm4dsr_cli.records.record import Record, RecordFormat, parse_record
from llm4dsr_cli.scores import Scores, log_odds_from, shortest_probabilities

MODEL_FIELD = "noise_model"
MODEL_DIGITS = 12
_OPENING = f',"{PROBABILITY_FIELD}":['.encode()
_WHITESPACE = b" \t\r\n"


@dataclass(slots=True)
class ScoredRecord(Record):
    """A record whose line is the one that was scored.

    Attributes:
        log_odds: canonical noise log-odds, shape (n_items,).
        model: first digits of the SHA-256 of the denoiser that gave them.
    """

    log_odds: Scores
    model: str


def scored_line(record: Record, log_odds: Scores, sha256: str) -> bytes:
    """The record's line with its noise probabilities, without a newline.

    Args:
        log_odds: noise log-odds, shape (n_items,).
        sha256: of the denoiser's file.
    """
    chances = orjson.dumps(shortest_probabilities(log_odds), option=orjson.OPT_SERIALIZE_NUMPY)
    body = record.line.rstrip(_WHITESPACE)
    end = f',"{MODEL_FIELD}":"{sha256[:MODEL_DIGITS]}"'.encode()
    return b"".join([body[:-1], _OPENING[:-1], chances, end, record.line[len(body) - 1 :]])


def parse_unscored(line: bytes, where: str, fmt: RecordFormat, catalog: Catalog | None) -> Record:
    """``parse_record`` for a line that is to be scored.

    Raises RecordError as that does, and when the record has one of the two fields already.
    """
    record = parse_record(line, where, fmt, catalog)
    for name in (PROBABILITY_FIELD, MODEL_FIELD):
        if name in record.data:
            raise RecordError(
                f"has a field {quote(name)} already", where=where, remedy="rename or remove it in the input"
            )
    return record


def parse_scored(line: bytes, where: str, fmt: RecordFormat, catalog: Catalog | None) -> ScoredRecord:
    """Read a line that ``scored_line`` wrote.

    Raises RecordError when it has no scores at its end, other than one for each item, or values that are no
    probabilities; and as ``parse_record`` does.
    """
    original, chances, model = _split(line, where)
    record = parse_record(original, where, fmt, catalog)
    if len(chances) != len(record.titles):
        raise _no_scores(f"has {len(chances)} noise probabilities for {len(record.titles)} items", where)
    log_odds = log_odds_from(np.array(chances, dtype=np.float64))
    return ScoredRecord(original, where, record.data, record.ids, record.titles, fmt, log_odds, model)


def original_line(line: bytes) -> bytes | None:
    """The line that was scored, or None when this is no scored line."""
    try:
        return _split(line, "")[0]
    except RecordError:
        return None


def _split(line: bytes, where: str) -> tuple[bytes, list[float], str]:
    """Original line, noise probabilities and denoiser of a scored line."""
    at = line.rfind(_OPENING)
    body = line.rstrip(_WHITESPACE)
    end: Any = None
    if at >= 0:
        try:
            end = orjson.loads(b"{" + body[at + 1 :])
        except orjson.JSONDecodeError:
            end = None
    # Two fields and nothing else: with that, and the brace that closes them, they are the line's last two.
    if not isinstance(end, dict) or list(end) != [PROBABILITY_FIELD, MODEL_FIELD]:
        raise _no_scores("does not end with noise probabilities", where)
    chances, model = end[PROBABILITY_FIELD], end[MODEL_FIELD]
    if not isinstance(chances, list):
        raise _no_scores("does not end with noise probabilities", where)
    if not isinstance(model, str) or len(model) != MODEL_DIGITS:
        raise _no_scores(f"has {quote(model)} as {quote(MODEL_FIELD)}", where)
    for chance in chances:
        if type(chance) not in (int, float) or not 0 <= chance <= 1:
            raise _no_scores(f"has {quote(chance)} as a noise probability", where)
    return line[:at] + line[len(body) - 1 :], chances, model


def _no_scores(what: str, where: str) -> RecordError:
    return RecordError(what, where=where, remedy="run `llm4dsr score` first")
