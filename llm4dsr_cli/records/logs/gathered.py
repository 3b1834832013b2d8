"""Gathered logs: the records of a log in a file that commands read like any other."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from contextlib import ExitStack
from pathlib import Path

import orjson

from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.logs.log import Log, LogOptions, open_log
from llm4dsr_cli.records.reader import can_be_read_twice, open_input
from llm4dsr_cli.records.writer import OutputFile

_SHOWN = 3  # titles, so that a person sees whether they are
# What stands beside a log of this name, and has the titles.
_CATALOGS = {
    "ratings.csv": "movies.csv",
    "ratings.dat": "movies.dat",
    "u.data": "u.item",
    "behaviors.tsv": "news.tsv",
}


_JSON = (".jsonl", ".json", ".ndjson")
_ENDINGS = (*_JSON, ".csv", ".tsv", ".inter", ".dat", ".parquet", ".pq")


class Gathered(str):
    """The path of a file of records that were gathered from a log. It is gone when nobody refers to it any more.

    Attributes:
        original: the log's path, as it was given.
        log: what takes edits back.
        about: a sentence that says what was taken for what.
    """

    original: str
    log: Log
    about: str

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.log.file.name} sequence"


def gather(
    source: str,
    options: LogOptions,
    *,
    user_field: str,
    items_field: str = "items",
    catalog_id: str | None = None,
    catalog: str | None = None,
    advance: Advance = untold,
) -> Gathered | None:
    """The records of a log; None where ``source`` holds records already.

    Args:
        source: a file, or a stream where the options name a format.
        options: what a person says of it.
        user_field: the field of a record's user.
        items_field: where a record that is no log has its items.
        catalog_id: what the catalog calls its ids.
        catalog: where titles come from; None for the log's own.
        advance: told how far it is.

    Raises:
        OptionError: as ``open_log``; or the log has no titles, and there is no catalog.
        RecordError: a row cannot be read.
    """
    spooled = not can_be_read_twice(source)
    if spooled and options.format in (None, "jsonl"):
        return None
    with ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="llm4dsr-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        path, name = source, source
        if spooled or source == "-":
            path, name = str(Path(folder, "input")), "stdin" if source == "-" else source
            with open_input(source) as stream, Path(path).open("wb") as copy:
                shutil.copyfileobj(stream, copy)
        log = open_log(
            path, options, name=name, items_field=items_field, catalog_id=catalog_id, has_catalog=catalog is not None
        )
        if log is None:
            return None
        _check_titles(log, catalog)
        found = Gathered(Path(folder, "records.jsonl"))
        found.original, found.log = source, log
        shown: list[str] = []
        with Path(found).open("wb") as file:
            for line in log.records(user_field, advance):
                file.write(line + b"\n")
                if log.titles is not None and len(shown) < _SHOWN:
                    titles = [title for title in orjson.loads(line)["titles"] if title is not None]
                    shown += titles[: _SHOWN - len(shown)]
        found.about = _about(log, shown)
        # Not a TemporaryDirectory, which warns when nobody has cleaned it up.
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
        stack.pop_all()
    return found


def catalog_beside(source: str) -> str | None:
    """The file of titles that belongs to a log by its name: RecBole's ``.item``, or MovieLens' ``movies.csv``."""
    path = Path(source)
    if (stem := re.fullmatch(r"(.+?)(?:\.(?:train|valid|test|part\d+))?\.inter", path.name)) is not None:
        beside = path.with_name(f"{stem[1]}.item")
    elif path.name in _CATALOGS:
        beside = path.with_name(_CATALOGS[path.name])
    else:
        return None
    return str(beside) if beside.is_file() else None


def check_ending(target: str, source: str) -> None:
    """Refuse a name for an output that says something else than what it would hold.

    Raises:
        OptionError: it would.
    """
    plain = re.sub(r"\.(gz|zst)$", "", target.lower())
    own = source.log.file.endings if isinstance(source, Gathered) else _JSON
    if plain.endswith(own) or not plain.endswith(_ENDINGS):
        return
    kind = source.log.file.kind if isinstance(source, Gathered) else "JSON lines"
    raise OptionError(
        f"would hold {kind}, which its name does not say",
        where=target,
        remedy=f"call it {Path(plain).with_suffix(own[0]).name}, or convert it afterwards with `llm4dsr convert`",
    )


class LogChanges:
    """Takes the records of a log back into it, as they come edited."""

    def __init__(self, log: Log, catalog: Catalog | None) -> None:
        self._log = log
        self._changes = log.changes(lambda id_: None if catalog is None else catalog.title(id_))

    def take(self, before: bytes, after: bytes) -> None:
        """A gathered record, and what became of it."""
        self._changes.take(before, after)

    def write(self, out: OutputFile) -> None:
        """Write the log with all that was taken. Raises OutputError when that fails."""
        self._log.file.write(out.write_bytes, self._changes.found())


def log_changes(source: str, catalog: Catalog | None) -> LogChanges | None:
    """For the records of a log; None where ``source`` is none."""
    return LogChanges(source.log, catalog) if isinstance(source, Gathered) else None


def _check_titles(log: Log, catalog: str | None) -> None:
    if catalog is None and log.titles is None and not log.items_are_titles:
        raise OptionError(
            "the log has ids and no titles",
            where=log.file.name,
            remedy="give them with `catalog`, or name their column with `title_column`",
        )


def _about(log: Log, titles: list[str]) -> str:
    parts = [f"{log.file.name}: {log.file.kind}, {log.reads}", log.taken]
    if titles:
        parts.append("as " + ", ".join(f'"{title}"' for title in titles))
    if log.unjudged:
        parts.append(f"{log.unjudged:,} rows stay as they are")
    return "; ".join(parts)
