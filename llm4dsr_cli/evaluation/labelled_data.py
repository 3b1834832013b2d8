"""Labelled data: sequences whose noise is known, from a field of the records or because it was injected.

Titles and labels are kept apart, so that a scorer can be given the one without the other. Padding, and items without a
title, are left out, with their labels.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.noise import Indices, inject_noise
from llm4dsr_cli.records.json_lines import kind, quote, quote_names
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.sequences import IndexedSequences

Labels = NDArray[np.int8]


@dataclass(frozen=True)
class LabelledData:
    """Sequences with a label for every item; one entry a record in ``sequences``, ``labels`` and ``users``.

    Attributes:
        titles: the different titles; items with the same title are the same item.
        sequences: title indices, oldest first, noise in place; int64, shape (n_items,).
        labels: 1 = noise, 0 = belongs; int8, shape (n_items,).
        users: whose sequence it is; a record that names nobody is a user of its own.
        source: where the labels come from, for reports.
        nameless: how many records name no user.
    """

    titles: list[str]
    sequences: list[Indices]
    labels: list[Labels]
    users: list[Hashable]
    source: dict[str, Any]
    nameless: int

    @classmethod
    def read(cls, records: Iterable[Record], labels_field: str, *, user_field: str = "user_id") -> LabelledData:
        """From records with a list of labels, 0 or 1 for every item; those of items without a title are not used.

        Raises:
            RecordError: a record has no labels, or others.
        """
        labels: list[Labels] = []

        def labelled() -> Iterable[Record]:
            for record in records:
                labels.append(labels_of(record, labels_field)[record.judged])
                yield record

        found, _, nameless = _indexed(labelled(), (), user_field)
        return cls(found.titles, found.sequences, labels, found.users, {"labels_field": labels_field}, nameless)

    @classmethod
    def inject(
        cls,
        records: Iterable[Record],
        rate: float = 0.1,
        *,
        seed: int = 0,
        catalog: Iterable[str] | None = None,
        user_field: str = "user_id",
    ) -> LabelledData:
        """From records that are taken to be clean: each item replaced with probability ``rate`` by a random title.

        Drawn uniformly from the different titles that are not in the sequence: the catalog's, or the records' own. What
        is drawn for a record depends on the seed, the record's number, the record and the titles, and on no other
        record. Fields of the records besides items and user are not read.

        Args:
            rate: noise rate, above 0 and below 1.
            seed: 0 or more.
            catalog: titles to draw from.

        Raises:
            OptionError: rate or seed is out of range.
            RecordError: there are too few titles to draw from for a record.
        """
        if not 0 < rate < 1:
            raise OptionError(f"a noise rate of {rate:g}", remedy="give a share above 0 and below 1")
        if seed < 0:
            raise OptionError(f"`seed` is {seed}", remedy="give 0 or more")
        clean, places, nameless = _indexed(records, catalog or (), user_field)
        n_titles = len(clean.titles) if catalog is None else clean.n_catalog  # a record may bring titles of its own
        sequences: list[Indices] = []
        labels: list[Labels] = []
        for number, (sequence, where) in enumerate(zip(clean.sequences, places, strict=True)):
            if n_titles < 2 * len(sequence):
                raise RecordError(
                    f"{n_titles} different titles are too few to draw noise for {len(sequence)} items",
                    where=where,
                    remedy="give `catalog` with more titles, or label the noise yourself for `labels_field`",
                )
            noisy, label = inject_noise(sequence, n_titles, rate, np.random.default_rng([seed, number]))
            sequences.append(noisy)
            labels.append(label)
        return cls(clean.titles, sequences, labels, clean.users, {"inject": rate, "seed": seed}, nameless)

    def titles_of(self, number: int) -> list[str]:
        """The titles of one record's items."""
        return [self.titles[item] for item in self.sequences[number]]

    def popularity(self) -> NDArray[np.int64]:
        """How many users hold each title, shape (len(titles),)."""
        held: dict[Hashable, set[int]] = {}
        for user, sequence in zip(self.users, self.sequences, strict=True):
            held.setdefault(user, set()).update(sequence.tolist())
        items = np.fromiter((item for mine in held.values() for item in mine), dtype=np.int64)
        return np.bincount(items, minlength=len(self.titles)).astype(np.int64)


def _indexed(
    records: Iterable[Record], catalog: Iterable[str], user_field: str
) -> tuple[IndexedSequences, list[str], int]:
    """The records' sequences of what can be judged, their places (``file:line``), and how many name no user."""
    places: list[str] = []
    nameless = 0

    def pairs() -> Iterable[tuple[Hashable, Sequence[str]]]:
        nonlocal nameless
        for record in records:
            places.append(record.where)
            nameless += record.data.get(user_field) is None
            sequence = record.sequence(user_field).judgeable()
            yield sequence.owner, sequence.titles

    return IndexedSequences.build(pairs(), catalog), places, nameless


def labels_of(record: Record, field: str) -> Labels:
    """The labels in a record's field: 1 = noise, 0 = belongs; int8, shape (n_items,).

    Raises:
        RecordError: they are missing, or are not one 0 or 1 for each item.
    """
    if field not in record.data:
        raise RecordError(
            f"{quote(field)} is missing, the fields are {quote_names(list(record.data))}",
            where=record.where,
            remedy="name the field of the labels with `labels_field`, or leave it out to inject noise",
        )
    values = record.data[field]
    if not isinstance(values, list):
        raise RecordError(
            f"{quote(field)} is {kind(values)}", where=record.where, remedy="make it a list of 0 and 1, one an item"
        )
    if len(values) != len(record.titles):
        raise RecordError(
            f"{quote(field)} has {len(values)} entries for {len(record.titles)} items",
            where=record.where,
            remedy="give each item one, 0 or 1",
        )
    for place, value in enumerate(values):
        if not isinstance(value, int) or value not in (0, 1):
            shown = quote(value) if isinstance(value, (float, int, str)) else kind(value)
            raise RecordError(
                f"{quote(field)}[{place}] is {shown}",
                where=record.where,
                remedy="write 1 or true for noise, 0 or false for the rest",
            )
    return np.array(values, dtype=np.int8)
