"""Fine-tuning by self-supervision; needs the extra ``finetune``.

from llm4dsr_cli.finetune import Domain, SuggestionSettings, find_start, finetune

start = find_start()
films = Domain.build("films", titles, [(user, titles_of_user), ...])
done = finetune(
    [films], Path("mine.gguf"), start, start.settings(time_budget=3000.0), SuggestionSettings(None, time_budget=600.0)
)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm4dsr_cli.finetune.curve import plot_training
    from llm4dsr_cli.finetune.data import Domain
    from llm4dsr_cli.finetune.run import Finetuned, finetune
    from llm4dsr_cli.finetune.settings import Settings, SuggestionSettings
    from llm4dsr_cli.finetune.start import Start, find_start

__all__ = [
    "Domain",
    "Finetuned",
    "Settings",
    "Start",
    "SuggestionSettings",
    "find_start",
    "finetune",
    "plot_training",
]

# Imported on first use: a start and its settings can be had without torch.
_MODULE_OF = {
    "Domain": "data",
    "Finetuned": "run",
    "Settings": "settings",
    "Start": "start",
    "SuggestionSettings": "settings",
    "find_start": "start",
    "finetune": "run",
    "plot_training": "curve",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
