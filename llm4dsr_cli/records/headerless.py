"""Catalogs without a header: files of well-known data sets, whose columns everybody knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llm4dsr_cli.errors import CatalogError


@dataclass(frozen=True)
class Headerless:
    """How such a file is written; text that is no UTF-8 is Latin-1.

    Attributes:
        names: of files that may be so.
        first: what the first line begins with.
        separator: between the cells.
        title: the column of titles, from 0; ids are in the first.
    """

    names: re.Pattern[str]
    first: re.Pattern[bytes]
    separator: bytes
    title: int

    def rows(self, lines: Iterable[tuple[int, bytes]], name: str) -> Iterator[tuple[int, str, str]]:
        """Each item's line, id and title.

        Raises:
            CatalogError: a line has too few cells.
        """
        for number, line in lines:
            if not line.strip():
                continue
            cells = line.rstrip(b"\r\n").split(self.separator)
            if len(cells) <= self.title:
                raise CatalogError(
                    f"{len(cells)} cells, where the title is in the {self.title + 1}th",
                    where=f"{name}:{number}",
                    remedy="repair the line",
                )
            yield number, _text(cells[0]), _text(cells[self.title])


# MovieLens 1M and 10M, MovieLens 100K, and MIND (https://github.com/msnews/msnews.github.io/blob/master/assets/doc).
_KINDS = (
    Headerless(re.compile(r".*\.dat"), re.compile(rb"\d+::"), b"::", 1),
    Headerless(re.compile(r".*\.item"), re.compile(rb"\d+\|[^|\t]*\|"), b"|", 1),
    Headerless(re.compile(r".*news\.tsv"), re.compile(rb"N\d+\t"), b"\t", 3),
)


def headerless(path: Path, first: bytes) -> Headerless | None:
    """How a file is written, by its name and its first line; None where it has a header, or is something else."""
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind in _KINDS if kind.names.fullmatch(name) and kind.first.match(first)), None)


def _text(cell: bytes) -> str:
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        return cell.decode("latin-1")
