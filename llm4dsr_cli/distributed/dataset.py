"""A dataset of Ray Data, cleaned in a pipeline of somebody's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm4dsr_cli.cleaning.decision import Fallback
from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.distributed.cluster import measured, quiet_ray
from llm4dsr_cli.distributed.run import everywhere, weights_of
from llm4dsr_cli.distributed.tables import TableCleaner, table_records
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.edits import Action
from llm4dsr_cli.records.parallel import ParallelLists
from llm4dsr_cli.records.record import load_catalog
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.replacing.replacer import ProposerName
from llm4dsr_cli.scores import BATCH_RECORDS

# Rows that tell which lists run parallel to the items.
LOOKED_AT = 1000


def clean_dataset(
    ds: Any,
    *,
    catalog: str | Path | Catalog | None = None,
    gate: str | Path | GateFile | None = None,
    action: Action = "drop",
    fallback: Fallback = "drop",
    proposer: ProposerName = "counts",
    threshold: float | None = None,
    false_edit_rate: float | None = None,
    max_edits: float | None = None,
    protect_last: int = 1,
    fusion: bool = True,
    record_format: RecordFormat | None = None,
    user_field: str | None = None,
    annotate: bool = False,
    workers: int | None = None,
    threads: int | None = None,
    **loading: Any,
) -> Any:
    """A dataset of Ray Data without its noise: the same columns and types, one sequence a row; lazily, in one pass.

    ``Cleaning`` works in a pool of actors. As always in Ray Data rows may come in another order: an id among the
    columns tells whose they are. Lists that run parallel to the items keep step with them; which ones do, the first
    LOOKED_AT rows tell, for which what comes before this is run.

    Args:
        ds: a ``ray.data.Dataset``, whose column ``items`` (or another, see ``record_format``) holds lists.
        catalog, gate, action, fallback, proposer, threshold, false_edit_rate, max_edits, protect_last, fusion,
            record_format, user_field: as for ``Cleaning.load``. A share of edits takes two passes, which
            ``clean_folder`` makes.
        annotate: add the items' noise probabilities, as a column.
        workers: how many hold a model; None is as many as the cluster has room for.
        threads: CPUs of each.
        loading: ``model``, ``base``, ``weights``, ``engine``, ``gpu_layers`` and ``offline``, as for ``Denoiser.load``.

    Raises:
        MissingExtraError: ray is not installed.
        OptionError: an argument is out of range, or missing for the action.
        RecordError: one of the first rows is no record. One of the others fails the dataset, when that is run.
        CatalogError, ModelError, OutputError: a file cannot be used.
    """
    ray = quiet_ray()
    if not isinstance(ds, ray.data.Dataset):
        raise OptionError(f"`ds` is {type(ds).__name__}", remedy="give a ray.data.Dataset")
    cluster = measured(ray, "auto", workers, threads)
    record_format = record_format or RecordFormat()
    if not (catalog is None or isinstance(catalog, Catalog)):
        catalog = load_catalog(catalog, record_format, keep_fields=action == "replace")
    arguments: dict[str, Any] = {
        **everywhere(loading),
        "catalog": catalog,
        "gate": GateFile.load(gate) if isinstance(gate, (str, Path)) else gate,
        "action": action,
        "fallback": fallback,
        "proposer": proposer,
        "threshold": threshold,
        "false_edit_rate": false_edit_rate,
        "max_edits": max_edits,
        "protect_last": protect_last,
        "fusion": fusion,
        "record_format": record_format,
        "user_field": user_field,
        "threads": cluster.threads,
    }
    with Cleaning.load(**arguments) as cleaning:  # what is wrong shows here, and weights are chosen once for all
        runtime = getattr(cleaning.scorer, "runtime", None)
        if runtime is not None and (chosen := weights_of(runtime)) is not None:
            arguments["weights"] = chosen
        field = cleaning.user_field
    lists = ParallelLists(record_format)
    for table in ds.limit(LOOKED_AT).iter_batches(batch_format="pyarrow", batch_size=None):
        lists.observe(record for _, record in table_records(table, "row", 1, record_format, catalog, field))
    return ds.map_batches(
        _Worker,
        fn_constructor_kwargs={"shared": ray.put((arguments, lists, annotate))},
        batch_size=BATCH_RECORDS,
        batch_format="pyarrow",
        num_cpus=cluster.asked,
        compute=ray.data.ActorPoolStrategy(size=cluster.workers),
    )


class _Worker:
    """One process of the pool, with a model of its own."""

    def __init__(self, shared: Any) -> None:
        import ray

        arguments, lists, annotate = ray.get(shared)
        self._cleaner = TableCleaner(Cleaning.load(**arguments), lists.decided(), annotate)

    def __call__(self, table: Any) -> Any:
        cleaning = self._cleaner.cleaning
        records = table_records(table, "row", 1, cleaning.record_format, cleaning.catalog, cleaning.user_field)
        return self._cleaner.clean(table, records)
