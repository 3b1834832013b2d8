"""Clean user-interaction sequences before they reach a recommender, after LLM4DSR (arXiv 2408.08208).

What the commands that score, clean and measure are made of:

    from llm4dsr_cli import Catalog, Cleaner, Denoiser, Gate, LineReader, OutputFile, RecordFormat, read_records

    with Denoiser.load() as denoiser:
        log_odds = denoiser.score([["Alien", "Aliens", "The Very Hungry Caterpillar", "The Thing"]])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llm4dsr_cli.version import __version__

if TYPE_CHECKING:
    from llm4dsr_cli.candidates import Candidates
    from llm4dsr_cli.catalog import Catalog
    from llm4dsr_cli.clean import Cleaner
    from llm4dsr_cli.counts import Counts
    from llm4dsr_cli.counts_proposer import CountsProposer
    from llm4dsr_cli.denoiser import Denoiser
    from llm4dsr_cli.edits import EditedRecord
    from llm4dsr_cli.errors import (
        CatalogError,
        Llm4dsrError,
        MissingExtraError,
        ModelError,
        OptionError,
        OutputError,
        RecordError,
    )
    from llm4dsr_cli.evaluation import Evaluation, EvaluationSettings, Measurement, evaluate
    from llm4dsr_cli.evidence import Evidence
    from llm4dsr_cli.gate import Gate, budget_threshold, log_odds_of, probability
    from llm4dsr_cli.gate_file import GateFile
    from llm4dsr_cli.labelled_data import LabelledData
    from llm4dsr_cli.metadata import Calibration, DenoiserMetadata
    from llm4dsr_cli.metrics import DetectionQuality, EditQuality, detection_quality, edit_quality
    from llm4dsr_cli.plots import plot_evaluation
    from llm4dsr_cli.proposals import Gaps, Proposal, Proposer
    from llm4dsr_cli.reader import LineReader, read_parsed, read_records
    from llm4dsr_cli.records import Record, RecordFormat
    from llm4dsr_cli.replacement import Replacement, Replacer
    from llm4dsr_cli.resumable import ResumableFile
    from llm4dsr_cli.scored import KeptScores, ScoredRecord, parse_scored, parse_unscored, score_records
    from llm4dsr_cli.suggester import GeneratingProposer, Suggester
    from llm4dsr_cli.writer import OutputFile

# Imported on first use, so that ``llm4dsr --help`` loads neither numpy nor llama.cpp.
_HOMES = {
    "candidates": ("Candidates",),
    "catalog": ("Catalog",),
    "clean": ("Cleaner",),
    "counts": ("Counts",),
    "counts_proposer": ("CountsProposer",),
    "denoiser": ("Denoiser",),
    "edits": ("EditedRecord",),
    "errors": (
        "CatalogError",
        "Llm4dsrError",
        "MissingExtraError",
        "ModelError",
        "OptionError",
        "OutputError",
        "RecordError",
    ),
    "evaluation": ("Evaluation", "EvaluationSettings", "Measurement", "evaluate"),
    "evidence": ("Evidence",),
    "gate": ("Gate", "budget_threshold", "log_odds_of", "probability"),
    "gate_file": ("GateFile",),
    "labelled_data": ("LabelledData",),
    "metadata": ("Calibration", "DenoiserMetadata"),
    "metrics": ("DetectionQuality", "EditQuality", "detection_quality", "edit_quality"),
    "plots": ("plot_evaluation",),
    "proposals": ("Gaps", "Proposal", "Proposer"),
    "reader": ("LineReader", "read_parsed", "read_records"),
    "records": ("Record", "RecordFormat"),
    "replacement": ("Replacement", "Replacer"),
    "resumable": ("ResumableFile",),
    "scored": ("KeptScores", "ScoredRecord", "parse_scored", "parse_unscored", "score_records"),
    "suggester": ("GeneratingProposer", "Suggester"),
    "writer": ("OutputFile",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Calibration",
    "Candidates",
    "Catalog",
    "CatalogError",
    "Cleaner",
    "Counts",
    "CountsProposer",
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
    "KeptScores",
    "LabelledData",
    "LineReader",
    "Llm4dsrError",
    "Measurement",
    "MissingExtraError",
    "ModelError",
    "OptionError",
    "OutputError",
    "OutputFile",
    "Proposal",
    "Proposer",
    "Record",
    "RecordError",
    "RecordFormat",
    "Replacement",
    "Replacer",
    "ResumableFile",
    "ScoredRecord",
    "Suggester",
    "__version__",
    "budget_threshold",
    "detection_quality",
    "edit_quality",
    "evaluate",
    "log_odds_of",
    "parse_scored",
    "parse_unscored",
    "plot_evaluation",
    "probability",
    "read_parsed",
    "read_records",
    "score_records",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
