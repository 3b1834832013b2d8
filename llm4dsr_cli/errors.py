"""Every error that llm4dsr raises on purpose, each of them one sentence: where, what, and the remedy."""

from __future__ import annotations

from collections.abc import Callable

from llm4dsr_cli.text import printable


class Llm4dsrError(Exception):
    """Base of all errors raised on purpose.

    ``str()`` is the whole sentence, ``where: what: remedy``; the parts that are not known are left out, and what is not
    printable is escaped, since texts of files and servers may be among them.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(printable(": ".join(part for part in (where, what, remedy) if part)))

    def reword(self, change: Callable[[str], str]) -> None:
        """Say each part of the sentence in other words; the command line puts its flags for a library's arguments."""
        where, what, remedy = (part and change(part) for part in (self.where, self.what, self.remedy))
        Llm4dsrError.__init__(self, what or "", where=where, remedy=remedy)

    def locate(self, where: str) -> None:
        """Say where, unless that is known."""
        Llm4dsrError.__init__(self, self.what, where=self.where or where, remedy=self.remedy)


class RecordError(Llm4dsrError):
    """One line of the input cannot be used; ``--on-error skip`` goes on without it."""


class CatalogError(Llm4dsrError):
    """The catalog cannot be read, or contradicts itself."""


class OutputError(Llm4dsrError):
    """A result cannot be written where it should go."""


class ModelError(Llm4dsrError):
    """A base model, adapter or denoiser is missing, damaged, or does not fit."""


class OutOfMemoryError(ModelError):
    """There is too little memory for a model or its context."""

    REMEDY = "close other programs, give the container or `ulimit -v` more, or choose a smaller model"

    def __init__(self, what: str, *, where: str | None = None) -> None:
        super().__init__(f"out of memory ({what})", where=where, remedy=self.REMEDY)


class OptionError(Llm4dsrError):
    """Options contradict each other or are out of range."""


class MissingExtraError(Llm4dsrError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"{package} is not installed",
            remedy=f"pip install 'llm4dsr-cli[{extra}]'",
        )
