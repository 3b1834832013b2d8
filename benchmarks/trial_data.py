"""What trials of training settings train on: other kinds of noise, order and labels than ``llm4dsr finetune`` draws."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.finetune.data import Domain, LabelledWindow, Sampler
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import Fusion
from llm4dsr_cli.noise import Indices
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.reader import LineReader, read_records
from llm4dsr_cli.records.record_format import RecordFormat

NOISE = ("uniform", "popularity", "recent")
# How many of each user's last items noise of the kind "recent" is drawn from.
RECENT = 5
# How many windows of each domain a teacher learns to weigh the counts by.
TEACHER_WINDOWS = 1_000


def read_domain(folder: Path) -> Domain:
    catalog = Catalog.load(folder / "catalog.jsonl")
    train = next(path for path in (folder / "train.jsonl", folder / "sequences.jsonl") if path.is_file())
    with LineReader.open(str(train)) as reader:
        sequences = [
            (record.data["user_id"], record.titles)
            for batch in read_records(reader, 1024, RecordFormat(), catalog)
            for record in batch
        ]
    return Domain.build(folder.name, [title for _, title in catalog if title is not None], sequences)


class VariantSampler(Sampler):
    """Windows with noise of one of the kinds, their items in order or shuffled, their labels hard or softened.

    Args:
        pools: of each domain, the title indices that noise is drawn from; one that is there twice comes twice as often.
        teaching: weight of the teachers' probabilities in the labels.
        options: those of ``Sampler``.
    """

    def __init__(
        self,
        domains: list[Domain],
        pools: list[Indices],
        shuffle: bool = False,
        teaching: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(domains, **options)
        self._pools = pools
        self._shuffle = shuffle
        self._teaching = teaching
        self._teachers: list[Teacher] = []
        if teaching:
            self._teachers = [Teacher.fit(domain, TEACHER_WINDOWS, **options) for domain in domains]

    def draw(self, number: int) -> LabelledWindow:
        domain_number, user, window, rng = self._cut(number)
        if self._shuffle:
            window = rng.permutation(window)
        domain = self.domains[domain_number]
        rate = float(rng.choice(self.rates))
        noisy, labels = spoil(window, self._pools[domain_number], rate, rng)
        titles = [domain.titles[i] for i in noisy]
        if self._teachers:
            soft = self._teachers[domain_number].probability(titles, user)
            labels = ((1 - self._teaching) * labels + self._teaching * soft).astype(np.float32)
        return LabelledWindow(titles, labels, domain_number, user)


@dataclass(frozen=True)
class Teacher:
    """Noise probabilities by counts of a domain's sequences, the user whose window it is left out of them."""

    evidence: Evidence
    weighing: Fusion

    @classmethod
    def fit(cls, domain: Domain, n: int, **options: Any) -> Teacher:
        """From windows of the domain with noise as in training; ``options`` are those of ``Sampler``."""
        titles = ([domain.titles[i] for i in sequence] for sequence in domain.sequences)
        evidence = Evidence.count(zip(domain.users, titles, strict=True))
        sampler = VariantSampler([domain], noise_pools("uniform", [domain]), **options)
        features, labels = [], []
        for number in range(n):
            window = sampler.draw(number)
            features.append(evidence.features(window.titles, window.user))
            labels.append(window.labels)
        return cls(evidence, Fusion.fit(np.concatenate(features), np.concatenate(labels)))

    def probability(self, titles: list[str], user: Hashable) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-self.weighing.log_odds(self.evidence.features(titles, user)).astype(np.float64)))


def spoil(window: Indices, pool: Indices, rate: float, rng: np.random.Generator) -> tuple[Indices, NDArray[np.int8]]:
    """As ``inject_noise``, from a pool; it draws the same from a pool of all titles once each."""
    labels = (rng.random(len(window)) < rate).astype(np.int8)
    noisy, present = window.copy(), set(window.tolist())
    for i in np.flatnonzero(labels):
        while (drawn := int(pool[rng.integers(len(pool))])) in present:
            pass
        present.add(drawn)
        noisy[i] = drawn
    return noisy, labels


def noise_pools(noise: str, domains: list[Domain]) -> list[Indices]:
    """What each domain's noise of this kind is drawn from, by the sequences of its training users."""
    if noise == "uniform":
        return [np.arange(len(domain.titles)) for domain in domains]
    last = RECENT if noise == "recent" else None
    return [np.concatenate([sequence[-last if last else 0 :] for sequence in domain.sequences]) for domain in domains]
