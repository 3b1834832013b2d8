"""Editing: a split's sequences, cleaned in each way; scored once, whatever the number of ways."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.cleaning.decision import Decision
from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.gate.survey import Survey
from llm4dsr_cli.noise import Indices
from llm4dsr_cli.scores import BATCH_RECORDS, Scores, probability
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.trial.kept import Kept, digest
from llm4dsr_cli.trial.recommenders import Weights
from llm4dsr_cli.trial.settings import AS_IT_IS, FLAGGED_WEIGHT, Setting, TrialAction
from llm4dsr_cli.trial.splits import Split
from llm4dsr_cli.version import __version__

_KEPT_EVERY = 10.0  # seconds
# Of gates and edits that are kept: another one where the same data give others.
_VERSION = (3, __version__)


@dataclass(frozen=True)
class Edited:
    """A split's sequences after a cleaning.

    Attributes:
        sequences: item numbers, int64, shape (n_items,) each; as many sequences as the split has.
        weights: how much each interaction counts; None is 1 for all.
        edits: how many items were edited in the sequences that recommenders learn from.
        replaced: how many of these were replaced; the others were dropped, or got another weight.
        replaced_elsewhere: how many items were replaced in the other sequences.
        newest_replaced: numbers of the sequences whose newest item was replaced.
    """

    sequences: list[Indices]
    weights: list[Weights] | None = None
    edits: int = 0
    replaced: int = 0
    replaced_elsewhere: int = 0
    newest_replaced: frozenset[int] = frozenset()


class _Anything:
    """Stands in for a denoiser: likes whatever is proposed, so that a random place is edited like a suspicious one."""

    name = sha256 = None

    def threshold(self, false_edit_rate: float) -> float:
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        raise NotImplementedError

    def score(self, sequences: Iterable[Sequence[str]]) -> list[Scores]:
        return [np.full(len(titles), -math.inf, dtype=np.float32).clip(min=-20) for titles in sequences]


class Editor:
    """Cleans a split in each way. What takes the model is kept: scores, and what replaces what.

    The same share is edited of what recommenders learn from and of the other histories.

    Args:
        split: what is edited. Targets are in none of its sequences.
        cleaning: judges them; with the action "replace" where a setting replaces, and nothing protected. What it has
            counted must be ``counted_sequences`` of the split, so that no target is evidence.
        kept: where results are kept.
        judge: whatever the log-odds depend on, besides the sequences and the denoiser, as a digest.
        advance: told what was scored, and the share of it.
    """

    def __init__(
        self, split: Split, cleaning: Cleaning, kept: Kept, *, judge: str = "", advance: Advance = untold
    ) -> None:
        self.split = split
        self.cleaning = cleaning
        self._kept = kept
        self._advance = advance
        self._sequences = split.item_sequences()
        self._key = digest(
            cleaning.scorer.description(),
            [[list(one.titles), list(map(str, one.ids)), str(one.owner)] for one in self._sequences],
            split.trains,
        )
        # Shares and actions are those of settings that are tried, not the cleaning's own.
        judging = replace(cleaning.settings, action="drop", threshold=None, false_edit_rate=None, edit=None)
        self._judged_key = digest(self._key, judge, cleaning.fuses, repr(judging))

    @cached_property
    def scored(self) -> list[ItemSequence]:
        """The sequences with the denoiser's log-odds; an interrupted scoring goes on after the last full batch."""
        found: list[Scores] = []
        kept = self._kept.get("scores", self._key)
        if kept is not None:
            flat, at = kept["log_odds"], 0
            for one in self._sequences[: int(kept["sequences"])]:
                found.append(flat[at : at + len(one.titles)])
                at += len(one.titles)
        last = time.monotonic()
        for start in range(len(found), len(self._sequences), BATCH_RECORDS):
            batch = self._sequences[start : start + BATCH_RECORDS]
            found += [one.log_odds for one in self.cleaning.score(batch) if one.log_odds is not None]
            self._advance(f"scored {len(found):,} sequences", len(found) / len(self._sequences))
            if time.monotonic() - last > _KEPT_EVERY or len(found) == len(self._sequences):
                self._kept.put(
                    "scores", self._key, log_odds=np.concatenate(found), sequences=np.array(len(found), dtype=np.int64)
                )
                last = time.monotonic()
        return [replace(one, log_odds=log_odds) for one, log_odds in zip(self._sequences, found, strict=True)]

    @cached_property
    def judged(self) -> list[Scores]:
        """What the gate judges by: log-odds of each sequence's items, fused with counts where these help."""
        found: list[Scores] = []
        for start in range(0, len(self.scored), BATCH_RECORDS):
            found += self.cleaning.log_odds(self.scored[start : start + BATCH_RECORDS])
            self._advance(f"judged {len(found):,} sequences", len(found) / len(self.scored))
        return found

    @cached_property
    def _parts(self) -> list[tuple[list[int], Survey]]:
        """The numbers of the sequences that recommenders learn from, and their survey; then those of the others."""
        anything = self.cleaning.settings.gate(-math.inf)
        parts = [np.flatnonzero(self.split.trains == learns).tolist() for learns in (True, False)]
        return [(part, Survey([self.judged[i] for i in part], anything)) for part in parts]

    def _flagged(self, share: float) -> list[NDArray[np.bool_]]:
        return [decision.flagged for decision in self._dropping(share)]

    def edited(self, setting: Setting, seed: int = 0) -> Edited:
        """The split's sequences, cleaned as a setting says; ``seed`` draws the places of a random control."""
        if setting == AS_IT_IS:
            return Edited(self.split.sequences)
        # What is kept are numbers of items, which targets have, too.
        numbering = [self.split.sequences, len(self.split.items)]
        key = digest(self._judged_key, repr(setting), seed if setting.at_random else 0, *numbering)
        kept = self._kept.get("edited", key)
        if kept is None:
            decisions = self._at_random(setting, seed) if setting.at_random else self._decisions(setting)
            kept = self._kept.put("edited", key, **_packed(self.applied(setting.action, decisions)))
        return _unpacked(kept)

    def _decisions(self, setting: Setting) -> list[Decision]:
        if setting.action != "replace":
            return self._dropping(setting.share)
        found: dict[int, Decision] = {}
        for part, survey in self._parts:
            cleaning = self.cleaning.gated(action="replace").editing(setting.share, survey)
            found.update(zip(part, self._decided(cleaning, [self.scored[i] for i in part], setting.name), strict=True))
        return [found[i] for i in range(len(self.scored))]

    def _dropping(self, share: float) -> list[Decision]:
        found: dict[int, Decision] = {}
        for part, survey in self._parts:
            threshold = survey.threshold(share)
            gate = self.cleaning.settings.gate(threshold)
            for i in part:
                flagged = gate.decide(self.judged[i])
                found[i] = Decision(self.judged[i], flagged, "drop", "drop", threshold, {})
        return [found[i] for i in range(len(self.judged))]

    def _decided(self, cleaning: Cleaning, sequences: list[ItemSequence], name: str) -> list[Decision]:
        decisions: list[Decision] = []
        for start in range(0, len(sequences), BATCH_RECORDS):
            decisions += cleaning.decide_batch(sequences[start : start + BATCH_RECORDS])
            if cleaning.settings.action == "replace":
                self._advance(f"{name}: {len(decisions):,} sequences", len(decisions) / len(sequences))
        return decisions

    def _at_random(self, setting: Setting, seed: int) -> list[Decision]:
        """Decisions about as many items as the setting edits, each as likely as any other that may be edited.

        As many of them are replaced, by what the counts propose for their places; the others are dropped.
        """
        model = self.edited(replace(setting, at_random=False))
        flagged = self._flagged(setting.share)
        rng = np.random.default_rng([seed, 4])
        anything = self.cleaning.settings.gate(-math.inf)
        random: list[ItemSequence] = []
        for one in self.scored:
            assert one.log_odds is not None
            # Above those of whatever is put in place, and a number only where somebody could judge.
            chance = np.where(np.isnan(one.log_odds), np.nan, rng.random(len(one.titles))).astype(np.float32)
            random.append(replace(one, log_odds=chance))
        found: dict[int, Decision] = {}
        for (part, _), replaced in zip(self._parts, (model.replaced, model.replaced_elsewhere), strict=True):
            wanted = sum(int(flagged[i].sum()) for i in part)
            drawn = [random[i].log_odds for i in part]
            possible = [one[anything.decide(one)] for one in drawn if one is not None]
            descending = -np.sort(-np.concatenate([np.zeros(0), *possible]))
            # Half-way between the last one that is edited and the next.
            bounds = np.concatenate([[1.0], descending, [0.0]])[wanted : wanted + 2]
            settings = replace(
                self.cleaning.settings,
                action="replace" if setting.action == "replace" else "drop",
                threshold=float(probability(bounds.mean())),
                false_edit_rate=None,
                edit=None,
                fusion=False,
            )
            cleaning = Cleaning(
                _Anything(),
                settings,
                replacer=None if self.cleaning.replacer is None else replace(self.cleaning.replacer, margin=0.0),
            )
            decided = self._decided(cleaning, [random[i] for i in part], setting.name)
            if setting.action == "replace":
                decided = _fewer_replaced(decided, replaced, rng)
            found.update(zip(part, decided, strict=True))
        return [found[i] for i in range(len(random))]

    def applied(self, action: TrialAction | None, decisions: Sequence[Decision]) -> Edited:
        """The split's sequences after decisions about ``scored``: "weigh" gives weights, another action other items."""
        sequences, weights, newest = [], [], set()
        edits = replaced = elsewhere = 0
        rows = zip(self.split.sequences, decisions, self.split.trains, strict=True)
        for number, (items, decision, trains) in enumerate(rows):
            new = items
            if action == "weigh":
                weights.append(np.where(decision.flagged, FLAGGED_WEIGHT, 1.0).astype(np.float32))
            else:
                new = items.copy()
                for position, put in decision.replacements.items():
                    new[position] = self.split.items.placed(put.id, put.title)
                new = new[decision.keep]
                if len(items) - 1 in decision.replacements:
                    newest.add(number)
            sequences.append(new)
            edits += int(decision.flagged.sum()) if trains else 0
            replaced += len(decision.replacements) if trains else 0
            elsewhere += 0 if trains else len(decision.replacements)
        return Edited(sequences, weights or None, edits, replaced, elsewhere, frozenset(newest))


def counted_sequences(split: Split) -> list[ItemSequence]:
    """What may be counted as evidence: what recommenders learn from, and no target."""
    return [one for one, trains in zip(split.item_sequences(), split.trains, strict=True) if trains]


def judging(
    loaded: Cleaning,
    split: Split,
    kept: Kept,
    *,
    gate: GateFile | None = None,
    say: Callable[[str], None] = lambda line: None,
    advance: Advance = untold,
) -> tuple[Cleaning, str]:
    """A cleaning that judges a split as ``clean`` does by default, and a digest of what its judgements depend on.

    Args:
        loaded: has counted ``counted_sequences`` of the split; the result shares its denoiser.
        kept: where the gate that is fitted to the data is kept.
        gate: weighs denoiser and counts, in place of a fit; the counts are the split's, for its own may hold targets.
        say: told, in a sentence, who judges.
        advance: told what was scored, and the share of it.

    Raises:
        ModelError: the gate was calibrated for another denoiser.
    """
    assert loaded.counted is not None
    fusion = loaded.settings.fusion
    sequences = [[list(one.titles), str(one.owner)] for one in counted_sequences(split)]
    titles = None if loaded.catalog is None else [str(title) for _, title in loaded.catalog]
    key = digest(_VERSION, loaded.scorer.description(), sequences, titles, fusion)
    if gate is not None:
        gate.check_model(str(loaded.scorer.sha256), "`gate`")
        gate = replace(gate, evidence=loaded.counted.evidence)
        return _with_gate(loaded, gate, fusion=fusion), digest(key, gate.fusion.weights, gate.fusion.mean)
    if not fusion:
        return loaded, key
    path, helps = kept.path("gate", key, ".gate"), kept.get("fitted", key)
    if path is not None and helps is not None and path.is_file():
        with suppress(ModelError):  # it is made again where it is damaged
            return _with_gate(loaded, GateFile.load(path), fusion=bool(helps["helps"])), key
    fitted = loaded.fitted(say=say, advance=advance)
    if path is not None and fitted.gate_file is not None:
        fitted.gate_file.save(path)
        kept.put("fitted", key, helps=np.array(fitted.settings.fusion))
    return fitted, key


def _with_gate(loaded: Cleaning, gate: GateFile, *, fusion: bool) -> Cleaning:
    return Cleaning(
        loaded.scorer,
        replace(loaded.settings, fusion=fusion),
        gate_file=gate,
        replacer=loaded.replacer,
        catalog=loaded.catalog,
        counted=loaded.counted,
    )


def _fewer_replaced(decisions: list[Decision], replaced: int, rng: np.random.Generator) -> list[Decision]:
    """The same, with only so many replacements; the other flagged items are dropped."""
    places = [(i, position) for i, decision in enumerate(decisions) for position in decision.replacements]
    kept = {places[place] for place in rng.permutation(len(places))[:replaced].tolist()}
    return [
        replace(
            decision,
            proposals={position: put for position, put in decision.proposals.items() if (i, position) in kept},
        )
        for i, decision in enumerate(decisions)
    ]


def _packed(edited: Edited) -> dict[str, NDArray[Any]]:
    arrays = {
        "items": np.concatenate([np.zeros(0, np.int64), *edited.sequences]),
        "lengths": np.array([len(one) for one in edited.sequences], dtype=np.int64),
        "counts": np.array([edited.edits, edited.replaced, edited.replaced_elsewhere]),
        "newest_replaced": np.array(sorted(edited.newest_replaced), dtype=np.int64),
    }
    if edited.weights is not None:
        arrays["weights"] = np.concatenate(edited.weights)
    return arrays


def _unpacked(arrays: dict[str, NDArray[Any]]) -> Edited:
    ends = np.cumsum(arrays["lengths"])[:-1]
    weights = np.split(arrays["weights"], ends) if "weights" in arrays else None
    newest_replaced = frozenset(arrays["newest_replaced"].tolist())
    edits, replaced, elsewhere = map(int, arrays["counts"])
    return Edited(np.split(arrays["items"], ends), weights, edits, replaced, elsewhere, newest_replaced)
