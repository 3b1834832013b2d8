"""Denoisers for benchmarks that score a lot: by torch where LLM4DSR_ENGINE is "torch" (docs/speed.md)."""

from __future__ import annotations

import os
from functools import partial

from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.model.denoiser import Denoiser

ENGINE = os.environ.get("LLM4DSR_ENGINE", "llama")
load_denoiser = partial(Denoiser.load, engine=ENGINE)
load_cleaning = partial(Cleaning.load, engine=ENGINE)
