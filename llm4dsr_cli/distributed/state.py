"""The state: what a run keeps in its folder, so that the next one knows it and goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llm4dsr_cli.distributed.folder import Folder
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.gate.gate_file import GateFile

OWN = "_llm4dsr"  # in the folder of the output; readers of data pass over what begins with an underscore
SCORES, EDITABLE, _GATES = f"{OWN}/scores", f"{OWN}/editable", f"{OWN}/gates"
_STATE = "state.json"
_NAMES = {True: "fused.gate", False: "alone.gate"}  # of a fitted gate, by whether counts help


class RunState:
    """The state of a run.

    Args:
        target: the folder of the output.
        scores: what the scores depend on, by the name that a person knows it by; JSON can say it.
        edits: the same of what the output depends on besides.
    """

    def __init__(self, target: Folder, scores: Mapping[str, Any], edits: Mapping[str, Any]) -> None:
        self._target = target
        self._scores: dict[str, Any] = orjson.loads(orjson.dumps(scores))
        self._depends_on: dict[str, Any] = self._scores | orjson.loads(orjson.dumps(edits))

    def begin(self) -> bool:
        """Whether an earlier run has done all; begins one where there was none.

        An earlier run of other edits that has written no shard yet, a dry run say, leaves its scores to this one.

        Raises:
            OptionError: the folder is of another run, or holds something else.
        """
        own = self._target.within(OWN)
        if not own.has(_STATE):
            if self._target.sizes():
                raise OptionError("is not empty", where=self._target.path, remedy="give a new folder")
            self._write(self._depends_on)
            return False
        with own.reading(_STATE) as path:
            try:
                before = dict(orjson.loads(path.read_bytes()))
            except ValueError:
                before = {}
        other = next((name for name, value in self._depends_on.items() if before.get(name) != value), None)
        if other is None:
            return bool(before.get("finished"))
        keeps = other not in self._scores and not before.get("finished")
        if keeps and not self._target.sizes():
            for name in (EDITABLE, _GATES):
                self._target.remove(name)
            self._write(self._depends_on)
            return False
        raise OptionError(
            f"holds a run with another choice of {other}",
            where=self._target.path,
            remedy="give a new folder, or the same options, or delete "
            + (f"the shards in it, but not {OWN}, where their scores are" if keeps else "it"),
        )

    def finish(self) -> None:
        """Note that all is done, and remove what only a run that goes on would need."""
        self._write({**self._depends_on, "finished": True})
        for name in (SCORES, EDITABLE, _GATES):
            self._target.remove(name)
        self._target.sweep()

    def keep_gate(self, gate: GateFile, helps: bool) -> None:
        """Keep a gate that was fitted to the data, and whether counts help; fitting it again may give another one."""
        with self._target.within(_GATES).writing(_NAMES[helps]) as path:
            gate.save(path)

    def kept_gate(self) -> tuple[GateFile, bool] | None:
        """The gate that an earlier run has kept."""
        gates = self._target.within(_GATES)
        for helps, name in _NAMES.items():
            if gates.has(name):
                with gates.reading(name) as path:
                    return GateFile.load(path), helps
        return None

    def _write(self, state: Mapping[str, Any]) -> None:
        with self._target.within(OWN).writing(_STATE) as path:
            path.write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2))
