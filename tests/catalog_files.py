"""Catalogs that tests write and read."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from llm4dsr_cli.errors import CatalogError
from llm4dsr_cli.records.catalog import Catalog

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


TEXTS = {
    "catalog.jsonl": '{"id": 5, "title": "Heat"}\n\n{"id": 6, "title": "Ronin", "year": 1998}\n',
    "catalog.json": '{"item_id": 5, "title": "Heat"}\n{"item_id": 6, "title": "Ronin"}',
    "catalog.csv": "id,year,title\n5,1995,Heat\n6,1998,Ronin\n",
    "catalog.tsv": "title\titem_id\nHeat\t5\nRonin\t6\n",
    "catalog.item": "item_id:token\tmovie_title:token_seq\tyear:token\n5\tHeat\t1995\n6\tRonin\t1998\n",
}


def saved(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def refusal(path: Path, **fields: str) -> str:
    """The error's sentence, with the folder taken out."""
    with pytest.raises(CatalogError) as caught:
        Catalog.load(path, **fields)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path.parent}/", "")
