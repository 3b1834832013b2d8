"""The replacer: flagged items give their place to proposed ones that the denoiser is sure about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.counts_proposer import CountsProposer
from llm4dsr_cli.replacing.proposals import Gaps, Proposal, Proposer
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.sequences import ItemId, JudgeableSequence
from llm4dsr_cli.windows import Window, overlapping_windows

if TYPE_CHECKING:
    from llm4dsr_cli.replacing.generate.suggester import Suggester

# Who proposes: counts of the data, or the denoiser.
ProposerName = Literal["counts", "generate"]
# By so much the noise log-odds of a proposal have to be below those of what it replaces: e times better odds.
MARGIN = 1.0


@dataclass(frozen=True)
class Replacement:
    """A candidate in a flagged item's place.

    Attributes:
        candidate: its number among the candidates.
        id: of the candidate; None where the data have no ids.
        title: of the candidate.
        proposer: name of who proposed it.
        score_name, score: how good it is to its proposer, and what that figure is called.
        log_odds: its own noise log-odds in that place.
        accepted: whether it is to stand there.
    """

    candidate: int
    id: ItemId | None
    title: str
    proposer: str
    score_name: str
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
    """

    proposer: Proposer
    candidates: Candidates
    max_window: int
    n_proposals: int = 2
    margin: float = MARGIN

    @classmethod
    def make(
        cls,
        proposer: ProposerName,
        max_window: int,
        candidates: Candidates,
        *,
        evidence: Evidence | None,
        load_suggester: Callable[[], Suggester],
    ) -> Replacer:
        """The replacer that a proposer's name and the data allow.

        Args:
            max_window: of the denoiser.
            evidence: who has what, for the proposer "counts".
            load_suggester: called for the proposer "generate".

        Raises:
            OptionError: there is no evidence where it is needed.
        """
        if proposer == "generate":
            from llm4dsr_cli.replacing.generate.suggester import GeneratingProposer

            return cls(GeneratingProposer(load_suggester(), candidates), candidates, max_window)
        if evidence is None:
            raise OptionError("replacing takes counts", remedy="give `gate`, or the sequences with `counted`")
        return cls(CountsProposer(evidence, candidates), candidates, max_window)

    def replace(
        self,
        sequences: Sequence[JudgeableSequence],
        log_odds: Sequence[Scores],
        flagged: Sequence[NDArray[np.bool_]],
        threshold: float,
        score: Callable[[Sequence[JudgeableSequence]], list[Scores]],
    ) -> list[dict[int, Replacement]]:
        """What is proposed for the flagged items of some sequences.

        Args:
            log_odds: noise log-odds of each sequence's items, shape (n_items,).
            flagged: which items are flagged, shape (n_items,).
            threshold: noise log-odds above which the gate flags an item.
            score: gives the noise log-odds of sequences' items; called once.

        Returns:
            For each sequence the replacements by position; a flagged item for which nothing is proposed has none.
        """
        cuts = [
            (number, positions, self._gaps(sequences[number], window, positions, edits))
            for number, edits in enumerate(flagged)
            if edits.any()
            for window, positions in self._windows(edits)
        ]
        proposals = self.proposer.propose([gaps for *_, gaps in cuts], self.n_proposals) if cuts else []
        tried: list[tuple[int, list[int], Proposal]] = []
        for (number, positions, _), those in zip(cuts, proposals, strict=True):
            tried += [(number, positions, proposal) for proposal in those]
        scored = score([self._altered(sequences[n], positions, proposal) for n, positions, proposal in tried])
        best: dict[tuple[int, int], tuple[float, Proposal, Scores]] = {}
        for (number, positions, proposal), found in zip(tried, scored, strict=True):
            # A proposal may be too short; the items that it leaves count against it.
            there = found[positions]
            key, total = (number, positions[0]), float(there.sum())
            if key not in best or total < best[key][0]:
                best[key] = (total, proposal, there)
        results: list[dict[int, Replacement]] = [{} for _ in sequences]
        for number, positions, _ in cuts:
            if (number, positions[0]) in best:
                _, proposal, there = best[number, positions[0]]
                self._judge(results[number], positions, proposal, there, log_odds[number], threshold)
        return results

    def _judge(
        self,
        result: dict[int, Replacement],
        positions: list[int],
        proposal: Proposal,
        there: Scores,
        before: Scores,
        threshold: float,
    ) -> None:
        """Add a window's replacements to those of its sequence; no candidate is accepted twice."""
        taken = {replacement.candidate for replacement in result.values() if replacement.accepted}
        for position, candidate, score, after in zip(
            positions, proposal.candidates, proposal.scores, there.tolist(), strict=False
        ):
            better = after <= threshold and after <= float(before[position]) - self.margin
            result[position] = Replacement(
                candidate,
                self.candidates.ids[candidate],
                self.candidates.titles[candidate],
                self.proposer.name,
                self.proposer.score_name,
                score,
                after,
                accepted=better and candidate not in taken,
            )

    def _windows(self, flagged: NDArray[np.bool_]) -> list[tuple[Window, list[int]]]:
        """The windows that have to do with a sequence's flagged items, and which of them are theirs."""
        result = []
        for window in overlapping_windows(len(flagged), self.max_window):
            positions = window.judge_from + np.flatnonzero(flagged[window.judge_from : window.judge_to])
            if len(positions):
                result.append((window, positions.tolist()))
        return result

    def _gaps(
        self, sequence: JudgeableSequence, window: Window, positions: list[int], flagged: NDArray[np.bool_]
    ) -> Gaps:
        others = [i for i in range(window.start, window.end) if not flagged[i]]
        return Gaps(
            [sequence.titles[i] for i in others], len(positions), self.candidates.numbers(sequence), sequence.owner
        )

    def _altered(self, sequence: JudgeableSequence, positions: list[int], proposal: Proposal) -> JudgeableSequence:
        titles = list(sequence.titles)
        for position, candidate in zip(positions, proposal.candidates, strict=False):
            titles[position] = self.candidates.titles[candidate]
        return sequence.altered(titles)
