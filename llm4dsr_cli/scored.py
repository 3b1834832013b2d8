"""The scored record: a line with its items' noise probabilities at its end, and back.

Noise log-odds are kept to three decimals, between -20 and 20. Digits beyond that move with the shape of a llama.cpp
batch and tell nothing of an item, and a rounded score survives as a short text: kept scores gate exactly as fresh ones
do. A probability is written with the fewest decimals that give its rounded log-odds back.

A scored line is the original line with two fields put in front of its closing brace,
``,"noise_probability":[...],"noise_model":"<first 12 hexadecimal digits of the denoiser file's SHA-256>"``. Taking them
out gives the original line again, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from llm4dsr_cli.catalog import Catalog
from llm4dsr_cli.counts import Counts
from llm4dsr_cli.edits import PROBABILITY_FIELD
from llm4dsr_cli.errors import ModelError, RecordError
from llm4dsr_cli.json_lines import quote
from llm4dsr_cli.records import Record, RecordFormat, parse_record

MODEL_FIELD = "noise_model"
MODEL_DIGITS = 12
_STEPS = 1000  # of log-odds in one unit
_LIMIT = 20
_OPENING = f',"{PROBABILITY_FIELD}":['.encode()
_WHITESPACE = b" \t\r\n"

Scores = NDArray[np.float32]


def canonical(log_odds: NDArray[np.floating]) -> Scores:
    """Noise log-odds rounded to three decimals and clipped to -20 and 20; same shape."""
    return (_steps(np.asarray(log_odds, dtype=np.float64)) / _STEPS).astype(np.float32)


def _steps(log_odds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Thousandths of log-odds, as whole numbers: there is no negative zero among them."""
    return np.rint(np.clip(log_odds, -_LIMIT, _LIMIT) * _STEPS).astype(np.int64)


def shortest_probabilities(log_odds: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities with the fewest decimals from which ``log_odds_from`` gives the canonical log-odds; same shape."""
    return _table()[_steps(np.asarray(log_odds, dtype=np.float64)) + _LIMIT * _STEPS]


def log_odds_from(probabilities: NDArray[np.float64]) -> Scores:
    """Canonical noise log-odds of probabilities between 0 and 1; same shape."""
    return canonical(_logit(probabilities))


def _logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):  # 0 and 1, which a person may have written, are clipped afterwards
        return np.log(probabilities) - np.log1p(-probabilities)


@cache
def _table() -> NDArray[np.float64]:
    """Shortest probability of every canonical score, from the smallest to the largest."""
    wanted = np.arange(-_LIMIT * _STEPS, _LIMIT * _STEPS + 1)
    exact = 1 / (1 + np.exp(-wanted / _STEPS))
    table = np.full(len(wanted), np.nan)
    missing = np.ones(len(wanted), dtype=bool)
    decimals = 0
    while missing.any():
        decimals += 1
        short = np.round(exact[missing], decimals)
        # A little less than half a step, so that another machine's logarithm reads the same.
        fits = np.abs(_logit(short) * _STEPS - wanted[missing]) < 0.5 - 1e-6
        found = np.flatnonzero(missing)[fits]
        table[found] = short[fits]
        missing[found] = False
    return table


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


@dataclass
class KeptScores:
    """Gives scored records' log-odds back, and sees to it that one denoiser gave them all.

    Attributes:
        sha256: of that denoiser; None takes the one that the first record names.
        whose: what needs that denoiser, for messages.
        remedy: what to do about records of another one, for messages.
    """

    sha256: str | None = None
    whose: str = "the records before it"
    remedy: str = "score all records again"
    _digits: str | None = field(default=None, init=False)

    def __call__(self, records: list[ScoredRecord]) -> list[Scores]:
        """Noise log-odds of each record.

        Raises:
            ModelError: another denoiser scored one of them.
        """
        for record in records:
            if self._digits is None:
                self._digits = record.model if self.sha256 is None else self.sha256[:MODEL_DIGITS]
            if record.model != self._digits:
                raise ModelError(
                    f"scored by another denoiser ({record.model}...) than {self.whose} ({self._digits}...)",
                    where=record.where,
                    remedy=self.remedy,
                )
        return [record.log_odds for record in records]

    @property
    def model(self) -> str | None:
        """The denoiser's SHA-256, or the digits of it that are known; None before the first record."""
        return self.sha256 or self._digits


def score_records(
    batches: Iterable[list[Record]], score: Callable[[list[Record]], list[Scores]], sha256: str, counts: Counts
) -> Iterator[list[bytes]]:
    """For each batch of records their scored lines; a batch is counted when the next one is asked for.

    Args:
        score: noise log-odds of each record's items, shape (n_items,).
        sha256: of the file of the denoiser that scores.
        counts: kept up to date.
    """
    for records in batches:
        scores = score(records)
        yield [scored_line(record, log_odds, sha256) for record, log_odds in zip(records, scores, strict=True)]
        for record in records:
            counts.add(record)
