"""Two machines, of which one is killed in the middle: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, clean_environment, write
from shards_of_records import tasteful, together, write_shards

from llm4dsr_cli.distributed.cluster import OBJECT_STORE_BYTES, quiet_ray

pytestmark = [pytest.mark.usefixtures("warm_environment"), pytest.mark.filterwarnings("default")]
N_SHARDS, PER_SHARD = 40, 64


@pytest.fixture
def two_machines(warm_cache: Path) -> Iterator[tuple[Any, list[Any]]]:
    """A cluster whose head does no work, and the two raylets that do, with a CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        clean_environment(environment)
        environment.setenv("LLM4DSR_CACHE", str(warm_cache))
        ray = quiet_ray()
        size = {"object_store_memory": OBJECT_STORE_BYTES // 4}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **size})
        raylets = [cluster.add_node(num_cpus=1, **size) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, raylets
        ray.shutdown()
        cluster.shutdown()


def test_a_machine_that_dies_takes_nothing_with_it(
    tmp_path: Path, clean: Call, two_machines: tuple[Any, list[Any]]
) -> None:
    """Guards: the shards of the machine that died, half a shard of it, and one that both have made: by the bytes of
    every line, for the single process makes the same."""
    cluster, raylets = two_machines
    records = tasteful(N_SHARDS * PER_SHARD)
    source, out, scores = write_shards(tmp_path / "in", records, PER_SHARD), tmp_path / "out", "_llm4dsr/scores"
    killed: list[int] = []

    def kill() -> None:
        while len(done := list((out / scores).glob("*.jsonl"))) < N_SHARDS // 4:
            time.sleep(0.02)
        cluster.remove_node(raylets[1], allow_graceful=False)
        killed.append(len(done))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = clean(source, out, "--ray", "auto", "--threshold", "0.4", "--report", tmp_path / "report.json")
    killer.join(60)
    assert done.code == 0, done.err
    assert killed and killed[0] < N_SHARDS * 3 // 4, "it did not die in the middle"
    workers = json.loads((tmp_path / "report.json").read_bytes())["ray"]["workers"]
    assert len(workers) >= 2, "only one of them had worked"
    assert sum(worker["sequences"] for worker in workers) == len(records)
    one = clean(write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl", "--threshold", "0.4")
    assert one.code == 0, one.err
    assert sorted(path.name for path in out.iterdir()) == ["_llm4dsr", *sorted(path.name for path in source.iterdir())]
    found, wanted = together(out).splitlines(), (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert len(found) == len(records)
    for number, (line, other) in enumerate(zip(found, wanted, strict=True), 1):
        assert line == other, f"line {number}"
    assert not list(out.rglob(".part-*")), "what the dead have left half-written is swept up"
