"""What a shell offers for the value of an option; where it is nothing, shells offer files."""

from __future__ import annotations

from collections.abc import Callable

Complete = Callable[[str], list[str]]


def one_of(*choices: str) -> Complete:
    """Offers the choices that begin as the value does."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def denoisers(incomplete: str) -> list[str]:
    """The denoisers that are known by name."""
    return _named("denoiser", incomplete)


def bases(incomplete: str) -> list[str]:
    """The base models that are known by name."""
    return _named("base", incomplete)


def _named(kind: str, incomplete: str) -> list[str]:
    from llm4dsr_cli.errors import Llm4dsrError
    from llm4dsr_cli.model.registry import Registry

    try:
        registry = Registry.load()
    except Llm4dsrError:  # a shell that waits for names is no place for a message
        return []
    return one_of(*(registry.bases if kind == "base" else registry.denoisers))(incomplete)
