"""Gathered logs: the records of a log in a file that commands read like any other."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import orjson

from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.records.audit import SEQUENCE
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.json_lines import quote_names
from llm4dsr_cli.records.logs.columns import Columns
from llm4dsr_cli.records.logs.list_log import ListLog
from llm4dsr_cli.records.logs.log import Log, LogOptions, open_log, refuse_where
from llm4dsr_cli.records.logs.patches import WHOLE, Digest
from llm4dsr_cli.records.logs.row_file import added_name
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
# Of logs, and what `format` calls that.
_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".inter": "inter",
    ".dat": "movielens",
    ".parquet": "parquet",
    ".pq": "parquet",
}


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

    def named(self, columns: Columns) -> Columns:
        """What users, items and titles are called in the log, where ``columns`` says nothing else."""
        own = self.log.names
        return Columns(columns.user or own.user, columns.item or own.item, None, columns.title or own.title)

    def refuse_added(self, fields: Sequence[str]) -> None:
        """Raise OptionError where the log has a column already that it is to get."""
        for name in (added_name(field, self.log.file) for field in fields):
            if name in self.log.file.columns:
                raise OptionError(
                    f"has a column {name} already", where=self.log.file.name, remedy="rename it in the input"
                )

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.log.file.name} {SEQUENCE}"


def gather(
    source: str,
    options: LogOptions,
    *,
    user_field: str,
    items_field: str = "items",
    catalog_id: str | None = None,
    catalog: str | None = None,
    also: Sequence[str] = (),
    whole: bool = False,
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
        also: further columns that the records are to have, as lists.
        whole: let the records have all that the log has, ids as they are spelled there; without titles, too.
        advance: told how far it is.

    Raises:
        OptionError: as ``open_log``; or the log has no titles, and there is no catalog.
        RecordError: a row cannot be read.
    """
    # Of a stream only a person can say what comes; and standard input is left for whoever reads records.
    if options.format in (None, "jsonl") and is_stream(source):
        refuse_where(options)
        return None
    folder = Path(tempfile.mkdtemp(prefix="llm4dsr-"))
    try:
        found = _gather(source, folder, options, user_field, items_field, catalog_id, catalog, also, whole, advance)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if found is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def _gather(
    source: str,
    folder: Path,
    options: LogOptions,
    user_field: str,
    items_field: str,
    catalog_id: str | None,
    catalog: str | None,
    also: Sequence[str],
    whole: bool,
    advance: Advance,
) -> Gathered | None:
    path, name = source, source
    if is_stream(source):
        path, name = str(folder / "input"), "stdin" if source == "-" else source
        with closing(open_input(source)) as stream, Path(path).open("wb") as copy:
            shutil.copyfileobj(stream, copy)
    log = open_log(
        path,
        options,
        name=name,
        items_field=items_field,
        catalog_id=catalog_id,
        has_catalog=catalog is not None,
        also=also,
        whole=whole,
    )
    if log is None:
        return None
    if not whole:
        _check_titles(log, catalog)
    found = Gathered(folder / "records.jsonl")
    found.original, found.log = source, log
    shown: list[str] = []
    with Path(found).open("wb") as file:
        for line in log.records(user_field, advance):
            file.write(line + b"\n")
            if log.titles is not None and len(shown) < _SHOWN:
                shown += [title for title in orjson.loads(line)["titles"] if title is not None][: _SHOWN - len(shown)]
    found.about = _about(log, shown, whole=whole)
    return found


def is_stream(source: str) -> bool:
    """Whether no name says what comes: of standard input, and of what can be read once."""
    return source == "-" or not can_be_read_twice(source)


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


def refuse_compressed_parquet(target: str) -> None:
    """Raise OptionError for a name such as x.parquet.gz, which no reader of Parquet takes."""
    if re.search(r"\.(parquet|pq)\.(gz|zst)$", target.lower()):
        raise OptionError("Parquet is not compressed from outside", where=target, remedy="leave out the last ending")


def check_ending(target: str, source: str, *, asks_format: bool = False) -> None:
    """Refuse a name for an output that says something else than what it would hold.

    Args:
        asks_format: whether ``source`` is a stream whose format nobody named, so that it may be a log.

    Raises:
        OptionError: it would.
    """
    if isinstance(source, Gathered):
        check_name(target, source.log.file.kind, source.log.file.endings)
        return
    plain = re.sub(r"\.(gz|zst)$", "", target.lower())
    if asks_format and plain.endswith(tuple(_FORMATS)):
        refuse_compressed_parquet(target)
        name = next(name for ending, name in _FORMATS.items() if plain.endswith(ending))
        raise OptionError(
            f"would hold JSON lines, which {'standard input' if source == '-' else source} is read as",
            where=target,
            remedy=f"if that is a log, add `format` {name}, else call OUT {Path(plain).with_suffix(_JSON[0]).name}",
        )
    check_name(target)


def check_name(target: str, kind: str = "JSON lines", endings: tuple[str, ...] = _JSON) -> None:
    """Refuse a name that says something else than what it would hold.

    Args:
        kind: of what it would hold, in words.
        endings: what a name of that kind may end in, its own first.

    Raises:
        OptionError: it does.
    """
    plain = re.sub(r"\.(gz|zst)$", "", target.lower())
    refuse_compressed_parquet(target)
    if plain.endswith(endings) or not plain.endswith((*_JSON, *_FORMATS)):
        return
    raise OptionError(
        f"would hold {kind}, which its name does not say",
        where=target,
        remedy=f"call it {Path(plain).with_suffix(endings[0]).name}, or convert it afterwards with `llm4dsr convert`",
    )


class LogChanges:
    """Takes the records of a log back into it, as they come edited."""

    def __init__(self, log: Log, catalog: Catalog | None) -> None:
        self._log = log
        self._changes = log.changes(lambda id_: None if catalog is None else catalog.title(id_))

    def take(self, before: bytes, after: bytes) -> None:
        """A gathered record, and what became of it."""
        self._changes.take(before, after)

    def write(self, out: OutputFile, audit: OutputFile | None) -> None:
        """Write the log with all that was taken, and into the audit what takes it back. Raises OutputError."""
        file, changes = self._log.file, self._changes.found()
        if audit is None or not file.rows_are_bytes:
            file.write(out.write_bytes, changes)
            return
        digest, take = Digest(out.write_bytes), audit.write
        file.write(digest.write, changes, lambda patch: take(patch.line()))
        take(digest.line(WHOLE))


def can_be_undone(source: str) -> bool:
    """Whether an audit of a run holds what takes its edits back: not where the rows of a log are no bytes."""
    return not isinstance(source, Gathered) or source.log.file.rows_are_bytes


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


def _about(log: Log, titles: list[str], *, whole: bool) -> str:
    parts = [f"{log.file.name}: {log.file.kind}, {log.reads}", log.taken]
    if titles:
        parts.append("as " + ", ".join(f'"{title}"' for title in titles))
    if isinstance(log, ListLog) and log.in_step:
        lists = quote_names(log.in_step)
        parts.append(f"in step with the items: {lists} (lists as long as they are; `not_parallel` leaves one as it is)")
    if log.unjudged:
        parts.append(f"{log.unjudged:,} rows {'are left out' if whole else 'stay as they are'}")
    if log.file.unreadable:
        parts.append(f"{len(log.file.unreadable):,} of them cannot be read")
    return "; ".join(parts)
