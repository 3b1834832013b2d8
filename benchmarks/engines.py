"""A denoiser for benchmarks that score a lot: by torch where LLM4DSR_BENCHMARK_ENGINE says so (torch_engine.py)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.model.denoiser import Denoiser

BY_TORCH = os.environ.get("LLM4DSR_BENCHMARK_ENGINE") == "torch"


def load_denoiser(model: str | Path | None = None, **options: Any) -> Denoiser:
    """As ``Denoiser.load``."""
    if not BY_TORCH:
        return Denoiser.load(model, **options)
    from torch_engine import with_torch

    return with_torch(Denoiser.load(model, **{**options, "weights": "bf16"}))


def load_cleaning(model: str | Path | None = None, **options: Any) -> Cleaning:
    """As ``Cleaning.load``."""
    if not BY_TORCH:
        return Cleaning.load(model, **options)
    from torch_engine import with_torch

    cleaning = Cleaning.load(model, **{**options, "weights": "bf16"})
    assert isinstance(cleaning.scorer, Denoiser)
    with_torch(cleaning.scorer)
    return cleaning
