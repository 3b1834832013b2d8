"""Replacement: flagged items give their place to proposed ones that the detector is sure about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.records.record import R, Record
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.proposals import Gaps, Proposal, Proposer
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.windows import Window, overlapping_windows

# By so much the noise log-odds of a proposal have to be below those of what it replaces: e times better odds.
MARGIN = 1.0


@dataclass(frozen=True)
class Replacement:
    """A proposal in a flagged item's place.

    Attributes:
        candidate: its number.
        score: how good it is to its proposer.
        log_odds: its own noise log-odds there.
        accepted: whether it is to stand there.
    """

    candidate: int
    score: float
    log_odds: float
    accepted: bool


@dataclass(frozen=True)
class Replacer:
    """Proposes items for the places of flagged ones, scores the sequences with them, and accepts what belongs.

    All flagged items of a window are replaced together. Of several proposals for them, the one is taken whose items
    have the smallest sum of noise log-odds, scored in the place of what they replace. Each of its items is accepted if
    the gate would not flag it, and if its noise log-odds are by ``margin`` below those of what it replaces.

    Attributes:
        max_window: items that are looked at together, as the denoiser does.
        n_proposals: how many are tried; each costs one more scoring of the sequence.
        user_of: whose sequence a record is, for proposers that count.
    """

    proposer: Proposer
    candidates: Candidates
    max_window: int
    n_proposals: int = 2
    margin: float = MARGIN
    user_of: Callable[[Record], Hashable | None] = field(default=lambda record: None)

    def replace(
        self,
        records: Sequence[R],
        log_odds: Sequence[Scores],
        edits: Sequence[NDArray[np.bool_]],
        threshold: float,
        score: Callable[[list[R]], list[Scores]],
    ) -> list[dict[int, Replacement]]:
        """What is proposed for the flagged items of some records.

        Args:
            log_odds: noise log-odds of each record's items, shape (n_items,).
            edits: which items are flagged, shape (n_items,).
            threshold: noise log-odds above which the gate flags an item.
            score: gives the noise log-odds of records' items; called once.

        Returns:
            For each record the replacements by position; a flagged item for which nothing is proposed has none.
        """
        cuts = [
            (number, positions, self._gaps(records[number], window, positions, edits[number]))
            for number, flagged in enumerate(edits)
            if flagged.any()
            for window, positions in self._windows(flagged)
        ]
        proposals = self.proposer.propose([gaps for *_, gaps in cuts], self.n_proposals) if cuts else []
        tried: list[tuple[int, list[int], Proposal]] = []
        for (number, positions, _), those in zip(cuts, proposals, strict=True):
            tried += [(number, positions, proposal) for proposal in those]
        scored = score([self._altered(records[n], positions, proposal) for n, positions, proposal in tried])
        best: dict[tuple[int, int], tuple[float, Proposal, Scores]] = {}
        for (number, positions, proposal), found in zip(tried, scored, strict=True):
            # A proposal may be too short; the items that it leaves count against it.
            there = found[positions]
            key, total = (number, positions[0]), float(there.sum())
            if key not in best or total < best[key][0]:
                best[key] = (total, proposal, there)
        results: list[dict[int, Replacement]] = [{} for _ in records]
        for number, positions, _ in cuts:
            if (number, positions[0]) not in best:
                continue
            _, proposal, there = best[number, positions[0]]
            taken = {replacement.candidate for replacement in results[number].values() if replacement.accepted}
            for position, candidate, worth, after in zip(
                positions, proposal.candidates, proposal.scores, there.tolist(), strict=False
            ):
                before = float(log_odds[number][position])
                accepted = after <= threshold and after <= before - self.margin and candidate not in taken
                results[number][position] = Replacement(candidate, worth, after, accepted)
        return results

    def _windows(self, flagged: NDArray[np.bool_]) -> list[tuple[Window, list[int]]]:
        """The windows that have to do with a sequence's flagged items, and which of them are theirs."""
        result = []
        for window in overlapping_windows(len(flagged), self.max_window):
            positions = window.judge_from + np.flatnonzero(flagged[window.judge_from : window.judge_to])
            if len(positions):
                result.append((window, positions.tolist()))
        return result

    def _gaps(self, record: Record, window: Window, positions: list[int], flagged: NDArray[np.bool_]) -> Gaps:
        others = [i for i in range(window.start, window.end) if not flagged[i]]
        return Gaps(
            [record.titles[i] for i in others],
            len(positions),
            self.candidates.numbers(record),
            self.user_of(record),
        )

    def _altered(self, record: R, positions: list[int], proposal: Proposal) -> R:
        titles = list(record.titles)
        for position, candidate in zip(positions, proposal.candidates, strict=False):
            titles[position] = self.candidates.titles[candidate]
        return dataclasses.replace(record, titles=titles)
