"""``clean_dataset`` in a pipeline of one's own, on a real Ray with two workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shards_of_records import tasteful

from llm4dsr_cli import Cleaning
from llm4dsr_cli.distributed import clean_dataset
from llm4dsr_cli.errors import OptionError, RecordError

pytestmark = [pytest.mark.usefixtures("warm_environment", "two_cpus"), pytest.mark.filterwarnings("default")]


@pytest.fixture
def loading(tiny_denoiser: Path) -> dict[str, Any]:
    return {"model": tiny_denoiser, "threads": 1, "weights": "q8_0", "threshold": 0.4}


def dataset(records: list[dict[str, Any]]) -> Any:
    """Blocks of 64 rows: whole batches, so that scores are those of one process."""
    import ray.data

    ray.data.DataContext.get_current().execution_options.preserve_order = False
    return ray.data.from_items(records, override_num_blocks=len(records) // 64)


@pytest.mark.parametrize("action", ["drop", "mark"])
def test_rows_become_what_one_process_makes_of_them(loading: dict[str, Any], action: Any) -> None:
    """Guards: rows that are lost or there twice, that get another row's edits, or lose their other columns; lists that
    lose step in a block where they are as long by chance."""
    records = [{"row": n, **record} for n, record in enumerate(tasteful(256))]
    ds = clean_dataset(dataset(records), action=action, annotate=True, **loading)
    found = {row["row"]: row for row in ds.iter_rows()}
    assert len(found) == 256 == ds.count()
    with Cleaning.load(action=action, **loading) as cleaning:
        wanted = list(cleaning.clean(records, annotate=True))
    for number, row in enumerate(wanted):
        assert {
            name: list(value) if name in ("items", "ratings", "tags") else value for name, value in row.items()
        } == {name: value.tolist() if hasattr(value, "tolist") else value for name, value in found[number].items()}
    assert sum(len(row["items"]) for row in wanted) < 256 * 7 or action == "mark"


def test_what_is_wrong_shows_before_anything_runs(loading: dict[str, Any]) -> None:
    """Guards: an hour of somebody's pipeline before an error that could be told at once."""
    ds = dataset(tasteful(64))
    with pytest.raises(OptionError, match="ds"):
        clean_dataset([{"items": ["a"]}], **loading)
    with pytest.raises(OptionError, match="workers"):
        clean_dataset(ds, workers=3, **loading)
    with pytest.raises(RecordError, match="items"):
        clean_dataset(dataset([{"id": n} for n in range(64)]), **loading)
    with pytest.raises(OptionError, match="action"):
        clean_dataset(ds, **loading, action="burn")


def test_what_is_read_from_files_leaves_the_workers_room(tmp_path: Path, loading: dict[str, Any]) -> None:
    """Guards: workers that take all CPUs, so that the tasks which read their rows wait for ever."""
    import pyarrow
    import pyarrow.parquet
    import ray.data

    records = [{"row": n, **record} for n, record in enumerate(tasteful(128))]
    for part in range(2):
        table = pyarrow.Table.from_pylist(records[part * 64 : part * 64 + 64])
        pyarrow.parquet.write_table(table, tmp_path / f"{part}.parquet")
    ds = clean_dataset(ray.data.read_parquet(str(tmp_path)), **loading)
    assert sorted(row["row"] for row in ds.iter_rows()) == [*range(128)]
