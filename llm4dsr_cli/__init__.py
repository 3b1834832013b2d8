"""Clean user-interaction sequences before they reach a recommender, after LLM4DSR (arXiv 2408.08208).

All that the command line can do:

    from llm4dsr_cli import Catalog, Cleaner, Denoiser, Gate, LineReader, OutputFile, RecordFormat, read_records

    with Denoiser.load() as denoiser:
        log_odds = denoiser.score([["Alien", "Aliens", "The Very Hungry Caterpillar", "The Thing"]])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llm4dsr_cli.version import __version__

if TYPE_CHECKING:
    from llm4dsr_cli.catalog import Catalog
    from llm4dsr_cli.clean import Cleaner, Counts
    from llm4dsr_cli.denoiser import Denoiser, probability
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
    from llm4dsr_cli.gate import Gate, log_odds_of
    from llm4dsr_cli.metadata import Calibration, DenoiserMetadata
    from llm4dsr_cli.metrics import DetectionQuality, detection_quality
    from llm4dsr_cli.reader import LineReader, read_records
    from llm4dsr_cli.records import Record, RecordFormat
    from llm4dsr_cli.writer import OutputFile

# Imported on first use, so that ``llm4dsr --help`` loads neither numpy nor llama.cpp.
_HOMES = {
    "catalog": ("Catalog",),
    "clean": ("Cleaner", "Counts"),
    "denoiser": ("Denoiser", "probability"),
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
    "gate": ("Gate", "log_odds_of"),
    "metadata": ("Calibration", "DenoiserMetadata"),
    "metrics": ("DetectionQuality", "detection_quality"),
    "reader": ("LineReader", "read_records"),
    "records": ("Record", "RecordFormat"),
    "writer": ("OutputFile",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Calibration",
    "Catalog",
    "CatalogError",
    "Cleaner",
    "Counts",
    "Denoiser",
    "DenoiserMetadata",
    "DetectionQuality",
    "EditedRecord",
    "Gate",
    "LineReader",
    "Llm4dsrError",
    "MissingExtraError",
    "ModelError",
    "OptionError",
    "OutputError",
    "OutputFile",
    "Record",
    "RecordError",
    "RecordFormat",
    "__version__",
    "detection_quality",
    "log_odds_of",
    "probability",
    "read_records",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
