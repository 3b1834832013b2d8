"""A gate for one run over one file: few sequences with noise put in, all of them used to fit and to measure.

``calibrate`` promises a false-edit rate, and so keeps users apart for its thresholds. A run that edits a stated share
of its data needs to know two things only: how much the counts are to weigh, and how much of such noise lies above a
score. Both come from cross-fitting (Chernozhukov et al. 2018, section 3): the fusion that judges a user's items was
fitted on other users.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.gate.calibration import CalibrationSettings, ScoredItems, summary_of
from llm4dsr_cli.gate.counting import user_hash
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import PRIOR_WEIGHTS, Fusion
from llm4dsr_cli.gate.gate_file import CROSS_FITTED, GateFile
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.thresholds import ThresholdCurve

FOLDS = 5


def cross_fitted_gate(
    items: ScoredItems,
    evidence: Evidence,
    *,
    users: Sequence[Hashable],
    model_name: str,
    model_sha256: str,
    settings: CalibrationSettings,
) -> tuple[GateFile, bool]:
    """A gate from scored items, and whether the counts help the denoiser on these data; ``users[i]`` is number i.

    They help if the items' labels are more likely by the cross-fitted fusion than by the denoiser's log-odds alone,
    which are fitted in the same way.

    Raises:
        OptionError: there is no noise among the items, or nothing else.
    """
    if len(np.unique(items.labels)) < 2:
        raise OptionError("the data are too few to weigh counts against the denoiser", remedy="give more sequences")
    fused, alone = _cross_fitted(items, PRIOR_WEIGHTS), _cross_fitted(items.columns(1), None)
    helps = _log_likelihood(fused, items.labels) > _log_likelihood(alone, items.labels)
    of_denoiser = items.features[:, 0].astype(np.float32)
    belongs = items.labels == 0
    curves = [ThresholdCurve.fit(scores[belongs], items.user[belongs]) for scores in (of_denoiser, fused)]
    gate = GateFile(
        model_name=model_name,
        model_sha256=model_sha256,
        alone=curves[0],
        fused=curves[1],
        fusion=Fusion.fit(items.features, items.labels, PRIOR_WEIGHTS),
        evidence=evidence,
        calibration_users=np.array(sorted({user_hash(user) for user in users}), dtype=np.uint64),
        summary={
            "settings": asdict(settings),
            CROSS_FITTED: True,
            "sequences": len(users),
            "fused": summary_of(curves[1], fused, items),
            "alone": summary_of(curves[0], of_denoiser, items),
        },
        protect_last=settings.protect_last,
    )
    return gate, helps


def _cross_fitted(items: ScoredItems, prior: NDArray[np.float64] | None) -> Scores:
    """Noise log-odds of each item by a fusion that other users' items have fitted."""
    fold = items.user % FOLDS
    scores = np.zeros(len(items.labels), dtype=np.float32)
    for number in range(FOLDS):
        mine = fold == number
        others = items.of(~mine)
        if mine.any() and len(others.labels):
            scores[mine] = Fusion.fit(others.features, others.labels, prior).log_odds(items.features[mine])
    return scores


def _log_likelihood(log_odds: Scores, labels: NDArray[np.int8]) -> float:
    """Of the labels, when the noise log-odds are believed."""
    signed = np.where(labels == 1, -log_odds, log_odds).astype(np.float64)
    return -float(np.logaddexp(0, signed).sum())
