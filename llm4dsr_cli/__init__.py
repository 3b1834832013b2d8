"""Clean user-interaction sequences before they reach a recommender, after LLM4DSR (arXiv 2408.08208).

    from llm4dsr_cli import Cleaning

    titles = ["Alien", "Aliens", "The Very Hungry Caterpillar", "The Thing", "Predator"]
    with Cleaning.load(threshold=0.2) as cleaning:
        (cleaned,) = cleaning.clean([{"items": titles}])

``Cleaning`` is what the commands use; docs/python.md shows what else is here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llm4dsr_cli.version import __version__

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.cleaning.decision import Decision
    from llm4dsr_cli.cleaning.report import report
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.cleaning.scoring import KeptScores, score_records
    from llm4dsr_cli.cleaning.settings import CleaningSettings
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.errors import (
        CatalogError,
        Llm4dsrError,
        MissingExtraError,
        ModelError,
        OptionError,
        OutputError,
        RecordError,
    )
    from llm4dsr_cli.evaluation.labelled_data import LabelledData
    from llm4dsr_cli.evaluation.measure import Evaluation, EvaluationSettings, Measurement, evaluate
    from llm4dsr_cli.evaluation.metrics import DetectionQuality, EditQuality, detection_quality, edit_quality
    from llm4dsr_cli.evaluation.plots import plot_evaluation
    from llm4dsr_cli.frames.cleaning import clean_frame, flag_frame
    from llm4dsr_cli.gate.calibration import CalibrationSettings, calibrate
    from llm4dsr_cli.gate.evidence import Evidence
    from llm4dsr_cli.gate.gate import Gate
    from llm4dsr_cli.gate.gate_file import GateFile
    from llm4dsr_cli.gate.survey import Outlook, Survey
    from llm4dsr_cli.model.base_model import list_models, pull
    from llm4dsr_cli.model.denoiser import Denoiser
    from llm4dsr_cli.model.metadata import DenoiserMetadata
    from llm4dsr_cli.model.registry import Registry
    from llm4dsr_cli.records.audit import AuditedEdit, AuditedRecord, read_audit
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.edits import EditedRecord
    from llm4dsr_cli.records.parsing import parse_record, record_of
    from llm4dsr_cli.records.reader import LineReader, read_parsed, read_records
    from llm4dsr_cli.records.record import Record, load_catalog
    from llm4dsr_cli.records.record_format import RecordFormat
    from llm4dsr_cli.records.resumable import ResumableFile
    from llm4dsr_cli.records.scored_line import ScoredRecord, parse_scored, parse_unscored
    from llm4dsr_cli.records.undo import undo_edits
    from llm4dsr_cli.records.undone import Undone
    from llm4dsr_cli.records.writer import OutputFile
    from llm4dsr_cli.replacing.candidates import Candidates
    from llm4dsr_cli.replacing.counts_proposer import CountsProposer
    from llm4dsr_cli.replacing.generate.suggester import GeneratingProposer, Suggester
    from llm4dsr_cli.replacing.proposals import Gaps, Proposal, Proposer
    from llm4dsr_cli.replacing.replacer import Replacement, Replacer
    from llm4dsr_cli.review.page import write_report
    from llm4dsr_cli.scores import Scorer, log_odds_of, probability
    from llm4dsr_cli.sequences import ItemSequence
    from llm4dsr_cli.thresholds import ThresholdCurve
    from llm4dsr_cli.trial.plots import plot_trial
    from llm4dsr_cli.trial.run import Trial
    from llm4dsr_cli.trial.settings import TrialSettings
    from llm4dsr_cli.trial.trying import try_cleaning

# Imported on first use, so that ``llm4dsr --help`` loads neither numpy nor llama.cpp.
_HOMES = {
    "cleaning.cleaner": ("Cleaner",),
    "cleaning.decision": ("Decision",),
    "cleaning.report": ("report",),
    "cleaning.run": ("Cleaning",),
    "cleaning.scoring": (
        "KeptScores",
        "score_records",
    ),
    "cleaning.settings": ("CleaningSettings",),
    "cleaning.tally": ("RunCounts",),
    "errors": (
        "CatalogError",
        "Llm4dsrError",
        "MissingExtraError",
        "ModelError",
        "OptionError",
        "OutputError",
        "RecordError",
    ),
    "evaluation.labelled_data": ("LabelledData",),
    "evaluation.measure": (
        "Evaluation",
        "EvaluationSettings",
        "Measurement",
        "evaluate",
    ),
    "evaluation.metrics": (
        "DetectionQuality",
        "EditQuality",
        "detection_quality",
        "edit_quality",
    ),
    "evaluation.plots": ("plot_evaluation",),
    "frames.cleaning": (
        "clean_frame",
        "flag_frame",
    ),
    "gate.calibration": (
        "CalibrationSettings",
        "calibrate",
    ),
    "gate.evidence": ("Evidence",),
    "gate.gate": ("Gate",),
    "gate.gate_file": ("GateFile",),
    "gate.survey": (
        "Outlook",
        "Survey",
    ),
    "model.base_model": (
        "list_models",
        "pull",
    ),
    "model.denoiser": ("Denoiser",),
    "model.metadata": ("DenoiserMetadata",),
    "model.registry": ("Registry",),
    "records.audit": (
        "AuditedEdit",
        "AuditedRecord",
        "read_audit",
    ),
    "records.catalog": ("Catalog",),
    "records.edits": ("EditedRecord",),
    "records.reader": (
        "LineReader",
        "read_parsed",
        "read_records",
    ),
    "records.parsing": (
        "parse_record",
        "record_of",
    ),
    "records.record": (
        "Record",
        "load_catalog",
    ),
    "records.record_format": ("RecordFormat",),
    "records.resumable": ("ResumableFile",),
    "records.scored_line": (
        "ScoredRecord",
        "parse_scored",
        "parse_unscored",
    ),
    "records.undo": ("undo_edits",),
    "records.undone": ("Undone",),
    "records.writer": ("OutputFile",),
    "replacing.candidates": ("Candidates",),
    "replacing.counts_proposer": ("CountsProposer",),
    "replacing.generate.suggester": (
        "GeneratingProposer",
        "Suggester",
    ),
    "replacing.proposals": (
        "Gaps",
        "Proposal",
        "Proposer",
    ),
    "replacing.replacer": (
        "Replacement",
        "Replacer",
    ),
    "review.page": ("write_report",),
    "scores": (
        "Scorer",
        "log_odds_of",
        "probability",
    ),
    "sequences": ("ItemSequence",),
    "thresholds": ("ThresholdCurve",),
    "trial.plots": ("plot_trial",),
    "trial.run": ("Trial",),
    "trial.settings": ("TrialSettings",),
    "trial.trying": ("try_cleaning",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
# Earlier names of the same things.
_FORMER_NAMES = {"Calibration": "ThresholdCurve", "Counts": "RunCounts"}

__all__ = [
    "AuditedEdit",
    "AuditedRecord",
    "CalibrationSettings",
    "Candidates",
    "Catalog",
    "CatalogError",
    "Cleaner",
    "Cleaning",
    "CleaningSettings",
    "CountsProposer",
    "Decision",
    "Denoiser",
    "DenoiserMetadata",
    "DetectionQuality",
    "EditQuality",
    "EditedRecord",
    "Evaluation",
    "EvaluationSettings",
    "Evidence",
    "Gaps",
    "Gate",
    "GateFile",
    "GeneratingProposer",
    "ItemSequence",
    "KeptScores",
    "LabelledData",
    "LineReader",
    "Llm4dsrError",
    "Measurement",
    "MissingExtraError",
    "ModelError",
    "OptionError",
    "Outlook",
    "OutputError",
    "OutputFile",
    "Proposal",
    "Proposer",
    "Record",
    "RecordError",
    "RecordFormat",
    "Registry",
    "Replacement",
    "Replacer",
    "ResumableFile",
    "RunCounts",
    "ScoredRecord",
    "Scorer",
    "Suggester",
    "Survey",
    "ThresholdCurve",
    "Trial",
    "TrialSettings",
    "Undone",
    "__version__",
    "calibrate",
    "clean_frame",
    "detection_quality",
    "edit_quality",
    "evaluate",
    "flag_frame",
    "list_models",
    "load_catalog",
    "log_odds_of",
    "parse_record",
    "parse_scored",
    "parse_unscored",
    "plot_evaluation",
    "plot_trial",
    "probability",
    "pull",
    "read_audit",
    "read_parsed",
    "read_records",
    "record_of",
    "report",
    "score_records",
    "try_cleaning",
    "undo_edits",
    "write_report",
]


def __getattr__(name: str) -> Any:
    name = _FORMER_NAMES.get(name, name)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
