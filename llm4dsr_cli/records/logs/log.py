"""The log: what a file of interactions is, told by its name, its first bytes, or by a person."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

from llm4dsr_cli.console import Advance
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.records.bounds import bounded_lines
from llm4dsr_cli.records.columns import names_sequence, user_name
from llm4dsr_cli.records.file_kinds import format_of
from llm4dsr_cli.records.json_objects import parse_object
from llm4dsr_cli.records.logs.columns import Columns
from llm4dsr_cli.records.logs.delimited import ATOMIC, CSV, MOVIELENS, MOVIELENS_100K, TSV, DelimitedFile, Dialect
from llm4dsr_cli.records.logs.json_rows import JsonRows
from llm4dsr_cli.records.logs.list_cells import Blanks, ListCell, Literal
from llm4dsr_cli.records.logs.list_log import ListChanges, ListColumns, ListLog
from llm4dsr_cli.records.logs.row_file import Cell, RowFile
from llm4dsr_cli.records.logs.row_log import RowChanges, RowLog
from llm4dsr_cli.records.logs.unreadable import Unreadable
from llm4dsr_cli.records.logs.where import conditions
from llm4dsr_cli.records.reader import open_input
from llm4dsr_cli.records.shapes import interaction_fields

_MIND = replace(
    TSV, kind="MIND's behaviors", header=False, quotes=False,
    names=("impression_id", "user_id", "time", "history", "impressions"),
)  # fmt: skip
_DIALECTS = {
    "csv": CSV,
    "tsv": TSV,
    "inter": ATOMIC,
    "movielens": MOVIELENS,
    "u.data": MOVIELENS_100K,
    "mind": _MIND,
}
FORMATS = ("jsonl", *_DIALECTS, "parquet")
_LOOKED_AT = 100  # rows
_JSON = (".jsonl", ".json", ".ndjson")
# Or Python's own literals; some databases write names of columns in brackets.
_BEGINS_JSON = re.compile(rb"\{|\[\s*(?:[{\[\d\"']|$)")


@dataclass(frozen=True)
class LogOptions:
    """What a person says of a log; all of it is guessed otherwise.

    Attributes:
        format: one of FORMATS; "jsonl" for objects that are interactions, or records.
        columns: of a log with one interaction a row; the user's, the items' and the titles' of one with lists.
        where: which rows are judged, as ``rating >= 4``; the others stay as they are.
        encoding: of text.
        parallel: of a log with lists, the columns of lists that run parallel to the items; others are found by length.
        not_parallel: those that do not, whatever their length.
        skips: let a row that cannot be read stay as it is, where it would be an error.

    Raises:
        OptionError: there is no such encoding.
    """

    format: str | None = None
    columns: Columns = field(default_factory=Columns)
    where: str | None = None
    encoding: str = "utf-8"
    parallel: tuple[str, ...] = ()
    not_parallel: tuple[str, ...] = ()
    skips: bool = False

    def __post_init__(self) -> None:
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise OptionError(f"`encoding` is {self.encoding}: no such encoding", remedy="try latin-1") from None

    def beside(self, lists: Sequence[str]) -> list[str]:
        """Of columns that may hold lists, those that may run parallel to the items; with those that are said to."""
        return [name for name in dict.fromkeys([*lists, *self.parallel]) if name not in self.not_parallel]


class Log(Protocol):
    """A file of interactions; ``RowLog`` or ``ListLog``."""

    file: RowFile
    reads: str
    places_field: str
    titles: str | None
    judged: int
    unjudged: int

    @property
    def is_timed(self) -> bool: ...
    @property
    def items_are_titles(self) -> bool: ...
    @property
    def names(self) -> Columns: ...
    @property
    def taken(self) -> str: ...
    def records(self, user_field: str, advance: Advance) -> Iterator[bytes]: ...
    def changes(self, title_of: Callable[[str], str | None]) -> RowChanges | ListChanges: ...


def open_log(
    path: str | Path,
    options: LogOptions | None = None,
    *,
    name: str | None = None,
    items_field: str = "items",
    catalog_id: str | None = None,
    has_catalog: bool = False,
    also: Sequence[str] = (),
    whole: bool = False,
) -> Log | None:
    """The log that a file is; None where it holds records, a sequence in each line of JSON.

    Args:
        path: a regular file.
        name: of the file for messages.
        items_field: where a record has its items.
        catalog_id: what the catalog calls its ids.
        has_catalog: whether titles come from a catalog, not from the log.
        also: further columns that its records are to have, where it has one interaction a row.
        whole: let its records have all that it has, with ids as they are spelled.

    Raises:
        OptionError: a column cannot be told, or is not there; an unknown format.
        RecordError: its first row cannot be read.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    options = options or LogOptions()
    name = name or str(path)
    kind = options.format or _kind(path, name)
    if kind not in (*FORMATS, None):
        raise OptionError(f"`format` is {kind}: no such format", remedy=f"choose {', '.join(FORMATS)}")
    if kind is None or (kind == "jsonl" and not _is_row(path, name, items_field)):
        refuse_where(options)
        return None
    file: RowFile
    unreadable = Unreadable() if options.skips else None
    told_by: list[str] | None = None
    if kind == "jsonl":
        rows = JsonRows(path, name)
        rows.unreadable = unreadable
        named = {name for name in vars(options.columns).values() if name is not None}
        if whole or options.where is not None or not named <= {*rows.columns}:
            told_by = [*rows.columns]  # a field that some rows lack is taken for nothing that nobody named
            rows.take_all_columns()
            told_by += [name for name in rows.columns if name in named and name not in told_by]
        file = rows
    elif kind == "parquet":
        from llm4dsr_cli.records.logs.parquet import ParquetFile

        parquet = ParquetFile(path, name)
        parquet.unreadable = unreadable
        file = parquet
        if _hold_sequences(parquet.lists(), file.columns, options.columns):
            refuse_where(options)
            where = _list_columns(file, parquet.lists(), options.columns)
            for one in (where.items, where.titles):
                if one is not None and one in parquet.lists():
                    parquet.check_list(one)
            return ListLog(
                file,
                where,
                Literal(),
                beside=options.beside(parquet.lists()),
                parallel=options.parallel,
                takes_titles=not has_catalog,
                whole=whole,
            )
    else:
        table = DelimitedFile(path, replace(_DIALECTS[kind], encoding=options.encoding), name)
        table.unreadable = unreadable
        lists = _lists_in_cells(table, _DIALECTS[kind], options.columns)
        if lists is not None:
            refuse_where(options)
            beside = options.beside(_beside(table, _DIALECTS[kind]))
            parallel = options.parallel
            return ListLog(table, *lists, beside=beside, parallel=parallel, takes_titles=not has_catalog, whole=whole)
        file = table
    columns = options.columns.found(file.columns if told_by is None else told_by, name, catalog_id)
    met = [] if options.where is None else conditions(options.where, file.columns, name)
    return RowLog(file, columns, met, takes_titles=not has_catalog, also=also, whole=whole)


def holds(path: str | Path) -> tuple[str, tuple[str, ...]] | None:
    """What kind of log of text a file is, in words, and the endings of its name; None where its first line tells none.

    Its own name may be one that says nothing, or a TSV's where `format` said CSV.
    """
    line = _first_line(path)
    if line[:1] == b"{":
        return JsonRows.kind, JsonRows.endings
    kind = format_of(line.decode("utf-8", "replace"))
    return None if kind is None else (_DIALECTS[kind].kind, _DIALECTS[kind].endings)


def _kind(path: str | Path, name: str) -> str | None:
    """The format by the name, or by the first line."""
    plain = re.sub(r"\.(gz|zst)$", "", name.lower())
    if Path(plain).name == "behaviors.tsv":
        return "mind"
    for kind, dialect in _DIALECTS.items():
        # What is called .txt may be anything; and no header begins like an object.
        if kind != "mind" and plain.endswith(dialect.endings) and not _BEGINS_JSON.match(_first_line(path)):
            return kind
    if plain.endswith((".parquet", ".pq")):
        return "parquet"
    line = _first_line(path)
    if plain.endswith(_JSON) or line[:1] in (b"{", b"[", b"<", b""):
        return "jsonl" if line[:1] == b"{" else None
    return format_of(line.decode("utf-8", "replace"))


def _first_line(path: str | Path) -> bytes:
    with closing(open_input(path)) as stream:
        for line in bounded_lines(stream, str(path)):
            if line.strip():
                return line.strip().removeprefix(b"\xef\xbb\xbf")
    return b""


def _is_row(path: str | Path, name: str, items_field: str) -> bool:
    """Whether the first object of a file of JSON lines is an interaction, not a sequence."""
    from llm4dsr_cli.errors import RecordError

    try:
        data = parse_object(_first_line(path), name, RecordError)
    except RecordError:
        return False  # whoever reads the records says what is wrong
    if _sequences([field for field, value in data.items() if isinstance(value, list)], [*data]):
        return False  # a sequence, with its target beside it
    outer = items_field.partition(".")[0]
    return items_field not in data and outer not in data and interaction_fields(data) is not None


def refuse_where(options: LogOptions) -> None:
    """Raise OptionError where a condition is asked for, and there are no rows to meet it."""
    if options.where is not None:
        raise OptionError("`where` is for logs with one interaction a row", remedy="leave it out")


def _lists_in_cells(file: DelimitedFile, dialect: Dialect, columns: Columns) -> tuple[ListColumns, ListCell] | None:
    """Where a table has lists in its cells, and how they are written; None where it has none."""
    if dialect is _MIND:
        return ListColumns("history", "user_id"), Blanks()
    if dialect.typed:
        typed = [name for name, type_ in zip(file.columns, file.types(), strict=True) if type_ == "token_seq"]
        lists = [name for name in typed if name.endswith("_list") or name == columns.item]
        if not _hold_sequences(lists, file.columns, columns):
            return None
        items = lists[0] if len(lists) == 1 else _list_columns(file, lists, columns).items
        target = items.removesuffix("_list")
        found = ListColumns(items, _user(columns, file), None, target if target in file.columns else None)
        return found, Blanks()
    cells: dict[str, Cell] = {}  # of each column the first that is not empty
    for _, row in islice(file.rows(file.columns), _LOOKED_AT):
        cells = {name: cells.get(name) or cell for name, cell in zip(file.columns, row, strict=True)}
        if all(cells.values()):
            break
    lists = [name for name, cell in cells.items() if _is_list(cell)]
    if not _hold_sequences(lists, file.columns, columns):
        return None
    return _list_columns(file, lists, columns), Literal()


def _hold_sequences(lists: Sequence[str], names: Sequence[str], columns: Columns) -> bool:
    """Whether a row is a sequence, which one of its lists holds, and not an interaction with lists beside it."""
    if columns.item is not None or not lists:
        return columns.item in lists
    named = _named_item(lists, names)
    # The row names an item, as its target or as its own: genres and images are lists of the item.
    return named is None or bool(_sequences(lists, names))


def _named_item(lists: Sequence[str], names: Sequence[str]) -> str | None:
    """The column in which a row names an item; None where none does. A bare id may be the row's."""
    found = interaction_fields([name for name in names if name not in lists])
    return None if found is None or found[1].casefold() == "id" else found[1]


def _sequences(lists: Sequence[str], names: Sequence[str]) -> list[str]:
    """Of columns of lists those that are called like sequences of items."""
    named = _named_item(lists, names)
    of_item = None if named is None else re.sub("(?i)_?id$", "", named).casefold() + "s"  # movies beside movie_id
    return [name for name in lists if names_sequence(name) or name.casefold() == of_item]


def _beside(file: DelimitedFile, dialect: Dialect) -> list[str]:
    """The columns whose cells may be lists."""
    if dialect is _MIND:
        return []
    if dialect.typed:
        return [name for name, type_ in zip(file.columns, file.types(), strict=True) if type_.endswith("_seq")]
    return file.columns


def _list_columns(file: RowFile, lists: list[str], columns: Columns) -> ListColumns:
    """Which of the columns of lists holds the items, and which the titles."""
    titles = columns.title or next((name for name in lists if re.search("title|name", name, re.IGNORECASE)), None)
    others = [name for name in lists if name != titles]
    ids = [name for name in _sequences(lists, file.columns) if name in others]
    items = columns.item or next(iter(ids), None) or (titles if titles in lists else None)
    if items is None:
        raise OptionError(
            f"{' and '.join(others)} may each hold the items", where=file.name, remedy="name it with `item_column`"
        )
    return ListColumns(items, _user(columns, file), titles if titles != items else None)


def _user(columns: Columns, file: RowFile) -> str | None:
    return columns.user or user_name(file.columns)


def _is_list(cell: str | None) -> bool:
    text = (cell or "").strip()
    return text[:1] == "[" and text[-1:] == "]"
