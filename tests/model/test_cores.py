"""Cores: what this process may use, and what others leave."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from llm4dsr_cli.model.branching import Branching
from llm4dsr_cli.model.cores import FreeCores, cpu_quota, seconds_of_others, usable_cores
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.llama import Model

V1 = "4:cpu,cpuacct:{}\n1:name=systemd:/x\n"
V2 = "0::{}\n"


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A root folder whose process is in some control groups."""
    contents = {"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v1(**quotas: int) -> dict[str, str]:
    """Files of version 1 for groups by their path, which has _ where it should have /."""
    files = {}
    for name, quota in quotas.items():
        folder = f"cpu,cpuacct/{name.replace('_', '/')}".rstrip("/")
        files |= {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    return files


QUOTAS: dict[str, tuple[str, dict[str, str], float | None]] = {
    "none": (V2.format("/"), {}, None),
    "a container, version 2": (V2.format("/"), {"cpu.max": "150000 100000\n"}, 1.5),
    "no limit, version 2": (V2.format("/a"), {"a/cpu.max": "max 100000\n"}, None),
    "a service, version 2": (V2.format("/system.slice/x"), {"system.slice/x/cpu.max": "300000 100000\n"}, 3),
    "smaller around it": (V2.format("/a/b"), {"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, 2),
    "no limit around it": (V2.format("/a/b"), {"a/cpu.max": "max 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
    "a sibling's is no concern": (V2.format("/a/b"), {"a/c/cpu.max": "50000 100000"}, None),
    "another name in the container": (V2.format("/docker/0123"), {"cpu.max": "100000 50000"}, 2),
    "a container, version 1": (V1.format("/docker/0123"), v1(_=250_000), 2.5),
    "nested, version 1": (V1.format("/a/b"), v1(_=-1, a=100_000, a_b=800_000), 1),
    "both versions": (
        "2:cpu:/x\n0::/y\n",
        {"cpu/x/cpu.cfs_quota_us": "600000", "cpu/x/cpu.cfs_period_us": "100000", "unified/y/cpu.max": "500000 100000"},
        5,
    ),
    "another controller": ("2:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "1"}, None),
    "damaged": (V2.format("/"), {"cpu.max": "what\n"}, None),
    "empty": (V2.format("/"), {"cpu.max": ""}, None),
    "a period of nothing": (V2.format("/"), {"cpu.max": "1 0"}, None),
    "damaged names": ("no colons\n\n", {"cpu.max": "100000 100000"}, None),
    "out of the mounted root": (V2.format("/../../x"), {"cpu.max": "100000 100000"}, 1),
}


@pytest.mark.parametrize(("groups", "files", "quota"), QUOTAS.values(), ids=QUOTAS)
def test_the_smallest_quota_counts(tmp_path: Path, groups: str, files: dict[str, str], quota: float | None) -> None:
    """Guards: 64 threads in a container that has been given two cores, by either version of control groups, nested."""
    root = tree(tmp_path, groups, files)
    assert cpu_quota(root) == (float("inf") if quota is None else quota)
    assert 1 <= usable_cores(root) <= max(1, quota or 1_000_000)


def test_half_a_core_is_one_thread(tmp_path: Path) -> None:
    assert usable_cores(tree(tmp_path, V2.format("/"), {"cpu.max": "50000 100000"})) == 1
    assert usable_cores(tmp_path / "nothing here") == usable_cores(tree(tmp_path / "none", V2.format("/"), {}))


linux = pytest.mark.skipif(sys.platform != "linux", reason="CPU times of Linux")


@contextmanager
def busy_neighbours(n: int) -> Iterator[None]:
    """Other processes, each of which keeps a core busy."""
    program = "print(flush=True)\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(n)]
    try:
        for process in processes:
            assert process.stdout and process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@linux
def test_cores_that_others_use_are_left_to_them() -> None:
    """Guards: threads that spin for each other on cores that they have to share: three times the CPU, and longer."""
    with busy_neighbours(len(os.sched_getaffinity(0))):
        cores = FreeCores()
        time.sleep(1)
        assert cores.threads() == 1


@linux
def test_what_this_process_uses_is_not_others() -> None:
    """Guards: a run that yields to itself, thread by thread."""

    def burn(until: float) -> None:
        while time.monotonic() < until:
            hashlib.sha256(bytes(1_000_000))  # without the interpreter's lock

    n = len(os.sched_getaffinity(0))
    before, own, began = seconds_of_others(), sum(os.times()[:2]), time.monotonic()
    threads = [threading.Thread(target=burn, args=(began + 1,)) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after, passed = seconds_of_others(), time.monotonic() - began
    own = sum(os.times()[:2]) - own
    assert before is not None and after is not None
    assert own > 0.1
    assert after - before + own <= passed * n + 0.2


class Changing:
    """Cores that come and go."""

    def __init__(self) -> None:
        self._next = cycle([1, 2, 1, 3])

    def threads(self) -> int:
        return next(self._next)


def test_the_number_of_threads_changes_no_result(tiny_base: Path) -> None:
    """Guards: scores that depend on what else the machine does."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 200, 30)
    requests = [Request(rng.integers(0, 250, n).astype(np.int32), np.arange(n, dtype=np.int32)) for n in lengths]
    candidates = np.arange(40, dtype=np.int32)
    for causal in (False, True):
        with Model(tiny_base) as model, Engine(model, causal=causal, threads=1) as engine:
            wanted = list(engine.log_probabilities(requests, candidates))
        with Model(tiny_base) as model:
            model.cores = Changing()  # type: ignore[assignment]
            with Engine(model, causal=causal) as engine:
                for one, other in zip(engine.log_probabilities(requests, candidates), wanted, strict=True):
                    np.testing.assert_array_equal(one, other)


def test_the_number_of_threads_changes_no_continuation(tiny_base: Path) -> None:
    """Guards: the same for titles that the model names, which are decoded token by token."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 250, n).astype(np.int32) for n in (500, 30, 5)]

    def rows(model: Model, threads: int | None) -> list[np.ndarray]:
        branching = Branching(model, threads=threads)
        found = [branching.start(prompts)]
        found += [branching.extend([0, 1, 2], [token] * 3) for token in (5, 6)]
        found += [branching.extend([0], [token]) for token in (7, 8, 9)]
        branching.close()
        return found

    with Model(tiny_base) as model:
        wanted = rows(model, 1)
        model.cores = Changing()  # type: ignore[assignment]
        for one, other in zip(rows(model, None), wanted, strict=True):
            np.testing.assert_array_equal(one, other)
