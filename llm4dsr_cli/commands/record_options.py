"""The options that say where records are: in which fields, in which columns of a log, and with which titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from llm4dsr_cli.commands.completion import one_of
from llm4dsr_cli.commands.inputs import first_ids, skips, tell_catalog
from llm4dsr_cli.commands.options import given
from llm4dsr_cli.commands.parameters import OptionSet

if TYPE_CHECKING:
    from typing_extensions import Self

    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.commands.options import ErrorOptions
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.logs.log import Log, LogOptions
    from llm4dsr_cli.records.record_format import RecordFormat


@dataclass(frozen=True, kw_only=True)
class CatalogOption(OptionSet):
    """Where titles come from."""

    heading: ClassVar[str] = "Records"

    catalog: Annotated[
        str | None,
        typer.Option(
            "--catalog",
            metavar="FILE",
            help="Item titles by id: JSONL, CSV or TSV with a header, RecBole's .item, or a JSON object {id: title}; "
            ".gz works.",
        ),
    ] = None

    def inputs(self) -> dict[str, str]:
        return given({"--catalog": self.catalog})


@dataclass(frozen=True, kw_only=True)
class FieldOptions(OptionSet):
    """Where in a record its items are."""

    heading: ClassVar[str] = "Records"

    items_field: Annotated[str, typer.Option("--items-field", metavar="NAME", help="Field that holds the items.")] = (
        "items"
    )
    titles_field: Annotated[
        str | None, typer.Option("--titles-field", metavar="NAME", help="Field with a parallel list of titles.")
    ] = None
    item_id_field: Annotated[
        str | None,
        typer.Option(
            "--item-id-field",
            metavar="NAME",
            help="Field of an item's id, in items that are objects and in the catalog. [default: id, item_id, movieId, "
            "asin, ..., whichever there is]",
        ),
    ] = None
    item_title_field: Annotated[
        str | None,
        typer.Option(
            "--item-title-field",
            metavar="NAME",
            help="Field of an item's title, likewise. [default: title, name, ..., whichever there is]",
        ),
    ] = None
    catalog_id_field: Annotated[
        str | None,
        typer.Option(
            "--catalog-id-field", metavar="NAME", help="The catalog's field of ids. [default: that of the records]"
        ),
    ] = None
    catalog_title_field: Annotated[
        str | None,
        typer.Option(
            "--catalog-title-field",
            metavar="NAME",
            help="The catalog's field of titles. [default: that of the records]",
        ),
    ] = None
    padding_id: Annotated[
        list[str] | None,
        typer.Option(
            "--padding-id", metavar="ID", help="Id that fills sequences up and is no item, as 0 may be. Repeatable."
        ),
    ] = None
    newest_first: Annotated[
        bool,
        typer.Option("--newest-first", help="The newest item of a sequence comes first. [default: oldest first]"),
    ] = False

    def record_format(self) -> RecordFormat:
        """For the readers of records."""
        from llm4dsr_cli.records.record_format import RecordFormat

        return RecordFormat(
            items_field=self.items_field,
            titles_field=self.titles_field,
            item_id_field=self.item_id_field,
            item_title_field=self.item_title_field,
            catalog_id_field=self.catalog_id_field,
            catalog_title_field=self.catalog_title_field,
            padding_ids=tuple(self.padding_id or ()),
            newest_first=self.newest_first,
        )


@dataclass(frozen=True, kw_only=True)
class LogColumnOptions(OptionSet):
    """What a log of interactions is, where it is no JSONL of sequences."""

    heading: ClassVar[str] = "Logs of interactions"

    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            autocompletion=one_of("jsonl", "csv", "tsv", "inter", "movielens", "u.data", "mind", "parquet"),
            help="jsonl, csv, tsv, inter (RecBole), movielens (::), u.data, mind or parquet. [default: by name and "
            "first bytes]",
        ),
    ] = None
    user_column: Annotated[
        str | None,
        typer.Option("--user-column", metavar="NAME", help="Column of users. [default: user_id, userId, ...]"),
    ] = None
    item_column: Annotated[
        str | None,
        typer.Option(
            "--item-column",
            metavar="NAME",
            help="Column of items, or of lists of them. [default: item_id, movieId, ...]",
        ),
    ] = None
    time_column: Annotated[
        str | None,
        typer.Option(
            "--time-column",
            metavar="NAME",
            help="Column of times, numbers or ISO dates. [default: timestamp, date, ..., else the order of the rows]",
        ),
    ] = None
    title_column: Annotated[
        str | None,
        typer.Option(
            "--title-column",
            metavar="NAME",
            help="Column of item titles, where there is no catalog. [default: title, name, ...]",
        ),
    ] = None
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Judge these rows alone, as 'rating >= 4'; the others stay as they are.",
        ),
    ] = None
    encoding: Annotated[str, typer.Option("--encoding", metavar="NAME", help="Of the text of a log, as latin-1.")] = (
        "utf-8"
    )

    def log_options(self) -> LogOptions:
        """For ``open_log``."""
        from llm4dsr_cli.records.logs.columns import Columns
        from llm4dsr_cli.records.logs.log import LogOptions

        columns = Columns(self.user_column, self.item_column, self.time_column, self.title_column)
        return LogOptions(self.format, columns, self.where, self.encoding)


@dataclass(frozen=True, kw_only=True)
class DataOptions(LogColumnOptions, FieldOptions):  # a dataclass takes its last base's fields first
    """Where in a record its items are, and what a log of interactions is."""

    def gathered_with(
        self,
        source: str,
        catalog: str | None,
        console: Console,
        user_field: str,
        errors: ErrorOptions,
        counts: RunCounts,
        also: Sequence[str] = (),
    ) -> tuple[str, Self, str | None]:
        """Where the records are, the options that read them, and their catalog.

        The records of a log are gathered in a file of their own; a catalog may lie beside it.

        Args:
            source: what the command was given.
            catalog: the same; None for none.
            console: told what is taken for what.
            user_field: the field of a record's user.
            errors: what happens to rows that cannot be read.
            counts: are told of them.
            also: columns that the records are to have, as lists.

        Returns:
            What was given, where it holds records already; else a ``Gathered``, and other options.

        Raises:
            OptionError, RecordError: it is a log that cannot be read; see ``open_log``.
        """
        from llm4dsr_cli.records.logs.gathered import catalog_beside, gather

        beside = catalog or catalog_beside(source)
        with console.progress() as advance:
            found = gather(
                source,
                replace(self.log_options(), skips=skips(errors.on_error)),
                user_field=user_field,
                items_field=self.items_field,
                catalog_id=self.catalog_id_field or self.item_id_field,
                catalog=beside,
                also=also,
                advance=advance,
            )
        if found is None:
            return source, self, catalog
        console.say(found.about)
        if found.log.file.unreadable:
            counts.unread += len(found.log.file.unreadable)
            for error in found.log.file.unreadable.first:
                console.warn(f"stays as it is: {error}")
        return found, self._of(found.log), beside

    def _of(self, log: Log) -> Self:
        """The options for records that were gathered from a log; its times say which item is the oldest."""
        newest_first = self.newest_first and not log.is_timed
        titles = None if log.titles is None else "titles"
        return replace(self, items_field="items", titles_field=titles, newest_first=newest_first)


@dataclass(frozen=True, kw_only=True)
class RecordOptions(DataOptions, CatalogOption):
    """Where the records' items and their titles are."""

    def load_catalog(self, source: str, console: Console, *, keep_fields: bool = False) -> Catalog | None:
        """The titles; None where there is no catalog. Raises what ``Catalog.load`` raises.

        Args:
            source: the records, whose first ids tell between fields that may hold ids.
            console: told where ids and titles come from.
        """
        from llm4dsr_cli.records.record import load_catalog

        record_format = self.record_format()
        catalog = load_catalog(
            self.catalog, record_format, keep_fields=keep_fields, record_ids=lambda: first_ids(source, record_format)
        )
        tell_catalog(catalog, console)
        return catalog

    def gathered(
        self,
        source: str,
        console: Console,
        user_field: str,
        errors: ErrorOptions,
        counts: RunCounts,
        also: Sequence[str] = (),
    ) -> tuple[str, Self]:
        """Where the records are, and the options that read them; see ``gathered_with``."""
        path, options, catalog = self.gathered_with(source, self.catalog, console, user_field, errors, counts, also)
        return path, replace(options, catalog=catalog)


@dataclass(frozen=True, kw_only=True)
class EditedRecordOptions(RecordOptions):
    """The same of records that are edited."""

    parallel_field: Annotated[
        list[str] | None,
        typer.Option(
            "--parallel-field",
            metavar="NAME",
            help="List that has to run parallel to the items, as ratings do. Repeatable. [default: lists that are "
            "always as long as the items]",
        ),
    ] = None
    not_parallel: Annotated[
        list[str] | None,
        typer.Option("--not-parallel", metavar="NAME", help="List that does not, whatever its length. Repeatable."),
    ] = None

    def record_format(self) -> RecordFormat:
        return replace(
            super().record_format(),
            parallel_fields=tuple(self.parallel_field or ()),
            not_parallel=tuple(self.not_parallel or ()),
        )

    def log_options(self) -> LogOptions:
        """For ``open_log``."""
        parallel, not_parallel = (tuple(names or ()) for names in (self.parallel_field, self.not_parallel))
        return replace(super().log_options(), parallel=parallel, not_parallel=not_parallel)

    def _of(self, log: Log) -> Self:
        return replace(super()._of(log), parallel_field=[log.places_field], not_parallel=None)
