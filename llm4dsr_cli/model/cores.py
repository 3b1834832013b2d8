"""Cores: how many this process may use, and how many of them others leave free."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# The kernel counts CPU time in hundredths of a second.
_SHORTEST_S = 0.1
_INTERVAL_S = 1.0


def usable_cores(root: Path = Path("/")) -> int:
    """Number of cores this process may use: its affinity mask, cut by the CPU quotas of its control groups, at least 1.

    ``root`` is the folder of ``proc`` and ``sys``.
    """
    return max(1, int(min(len(_allowed()), cpu_quota(root))))


class FreeCores:
    """How many threads to run: as many as there are usable cores that other processes leave free, at least one.

    llama.cpp's threads wait for each other spinning: where one of them has to share its core, the others burn theirs.
    What others do is measured by the kernel's CPU times (``/proc/stat``, man 5 proc) from the beginning on, and anew
    every second; where there are none, as outside of Linux, all usable cores count as free.
    """

    def __init__(self) -> None:
        self._usable = self._threads = usable_cores()
        self._measured_at, self._others = time.monotonic(), seconds_of_others()
        self._wait = _SHORTEST_S

    def threads(self) -> int:
        """The number of threads for what is run next."""
        now = time.monotonic()
        passed = now - self._measured_at
        if self._others is not None and passed >= self._wait and (others := seconds_of_others()) is not None:
            free = len(_allowed()) - (others - self._others) / passed
            self._threads = min(max(1, round(free)), self._usable)
            self._measured_at, self._others, self._wait = now, others, _INTERVAL_S
        return self._threads


def _allowed() -> set[int]:
    """Numbers of the cores in the affinity mask; of all where there is no such mask."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def seconds_of_others() -> float | None:
    """CPU seconds that other processes have had on the allowed cores; None where the kernel does not tell."""
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        lines = Path("/proc/stat").read_text().splitlines()
        busy = 0
        for name, *fields in map(str.split, lines):
            if name.removeprefix("cpu").isdigit() and int(name[3:]) in _allowed():
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
                busy += user + nice + system + irq + softirq + steal
    except (OSError, ValueError, AttributeError):
        return None
    own = os.times()
    return busy / ticks - own.user - own.system


def cpu_quota(root: Path = Path("/")) -> float:
    """The smallest CPU quota, in cores, of this process's control groups and of all around them; infinity without one.

    ``/proc/self/cgroup`` names the groups (man 7 cgroups). A container sees its own group mounted as if it were the
    root, whatever its name: so all folders on the way are looked at. Version 2 of control groups keeps a quota in
    ``cpu.max``, version 1 in ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``.
    """
    return min((quota for folder in _control_groups(root) for quota in _quotas(folder)), default=math.inf)


def _quotas(folder: Path) -> Iterator[float]:
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:  # -1 is none
            yield quota_us / int((folder / "cpu.cfs_period_us").read_text())


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders that may hold quotas, whether they are there or not."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    mounted = root / "sys/fs/cgroup"
    for number, controllers, name in [line.split(":", 2) for line in lines if line.count(":") >= 2]:
        if number == "0":
            mounts = [mounted, mounted / "unified"]  # "unified" where both versions are in use
        elif "cpu" in controllers.split(","):
            mounts = [mounted / controllers]
        else:
            continue
        for mount in mounts:
            group = mount / name.lstrip("/")
            yield from [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]
