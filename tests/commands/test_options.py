"""The option sets that commands share."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest
import typer
import typer.main

from llm4dsr_cli.commands import options, record_options
from llm4dsr_cli.commands.command import with_values
from llm4dsr_cli.commands.parameters import OptionSet, option_sets
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.replacing.generate.suggester import Suggester

SETS = [
    kind
    for module in (options, record_options)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, OptionSet) and kind is not OptionSet
]


def flags(kind: type[OptionSet]) -> set[str]:
    """The options that a command of this set has."""

    def command(values: Any) -> None:
        pass

    command.__annotations__["values"] = kind
    app = typer.Typer(add_completion=False)
    app.command()(option_sets(command))
    return {name for parameter in typer.main.get_command(app).params for name in parameter.opts}


@pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.__name__)
def test_paths_go_by_the_name_of_their_option(kind: Any) -> None:
    """Guards: a model that ``--report`` overwrites, or a message that names an option that was renamed."""
    values = {"catalog": "c", "model": "m", "base": "b", "gate": "g", "audit": "a", "report": "r"}
    chosen = {field.name: values[field.name] for field in fields(kind) if field.name in values}
    found = kind(**chosen)
    paths = found.inputs() | (found.outputs() if hasattr(found, "outputs") else {})
    assert sorted(paths.values()) == sorted(chosen.values())
    assert set(paths) <= flags(kind)
    assert kind().inputs() == {}, "what is not given overwrites nothing"


def test_a_denoiser_is_loaded_by_the_options_of_its_set() -> None:
    """Guards: an option that only one of the loaders knows."""
    chosen = options.ModelOptions(
        model="m", base="b", weights="bf16", engine="torch", threads=2, gpu_layers=1, offline=True
    )
    bound = inspect.signature(Denoiser.load).bind(**chosen.arguments(), say=print)
    assert bound.arguments == {**chosen.arguments(), "say": print}
    # Suggestions are llama.cpp's, whoever scores.
    of_suggester = {name: value for name, value in chosen.arguments().items() if name != "engine"}
    assert inspect.signature(Suggester.load).bind(**of_suggester, say=print)
    assert chosen.arguments() == {
        "model": "m",
        "base": "b",
        "weights": "bf16",
        "engine": "torch",
        "threads": 2,
        "gpu_layers": 1,
        "offline": True,
    }


def test_a_format_has_every_field_that_was_given() -> None:
    """Guards: parallel lists that are not cut when items are dropped, because a set forgot its own option."""
    chosen = {"items_field": "a", "titles_field": "b", "item_id_field": "c", "item_title_field": "d"}
    assert record_options.RecordOptions(**chosen).record_format() == RecordFormat(**chosen)
    edited = record_options.EditedRecordOptions(**chosen, parallel_field=["ratings", "times"])
    assert edited.record_format() == RecordFormat(**chosen, parallel_fields=("ratings", "times"))
    assert record_options.EditedRecordOptions().record_format() == RecordFormat()


def test_a_threshold_is_chosen_in_one_way() -> None:
    """Guards: a rate that is silently ignored beside a threshold."""
    options.GateOptions(threshold=0.5).check()
    with pytest.raises(OptionError, match="--threshold and --false-edit-rate contradict"):
        options.GateOptions(threshold=0.5, false_edit_rate=0.1).arguments()
    with pytest.raises(OptionError, match=r"--no-fusion .* --gate"):
        options.GateOptions(no_fusion=True).check_fusion()


@pytest.mark.parametrize(
    ("typed", "whole"),
    [
        ("IN OUT --ray", "IN OUT --ray local"),
        ("--ray IN OUT", "--ray local IN OUT"),
        ("--ray auto IN OUT", "--ray auto IN OUT"),
        ("--ray --quiet IN OUT", "--ray local --quiet IN OUT"),
        ("--ray ray://head:10001 IN", "--ray ray://head:10001 IN"),
        ("IN --ray 10.0.0.1:6379 OUT", "IN --ray 10.0.0.1:6379 OUT"),
        ("--ray=auto IN", "--ray=auto IN"),
        ("-- --ray", "-- --ray"),
    ],
)
def test_an_address_may_be_left_out(typed: str, whole: str) -> None:
    """Guards: a folder that is taken for a cluster, and a cluster that is taken for a folder."""
    assert with_values(typed.split()) == whole.split()
