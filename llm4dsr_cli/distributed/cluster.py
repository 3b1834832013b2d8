"""The cluster: Ray, started on this machine or joined, and a pool of workers on it."""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llm4dsr_cli.errors import Llm4dsrError, MissingExtraError, OptionError
from llm4dsr_cli.model.cores import usable_cores

LOCAL = "local"
ADDRESS = re.compile(r"local|auto|[\w.-]+:\d+")
# Of a Ray that is started here. What is shared are counts, not data.
OBJECT_STORE_BYTES = 400 << 20
# llama.cpp's threads wait for each other at every layer: several workers of few threads do more than one of many.
MOST_THREADS = 4


@dataclass(frozen=True)
class Cluster:
    """Where workers run.

    Attributes:
        address: as it was given.
        nodes: how many machines there are.
        workers: how many of them hold a model at once.
        threads: CPUs of each.
        cpus: of all machines.
    """

    address: str
    nodes: int
    workers: int
    threads: int
    cpus: int

    @property
    def asked(self) -> float:
        """CPUs that a worker asks Ray for where tasks bring it rows, for which one CPU has to be left."""
        room = (self.cpus - 1) / self.workers
        if room < 1:
            return math.floor(100 * room) / 100
        return min(self.threads, math.floor(room))  # Ray knows no fractions beyond 1

    def share(self, value: Any) -> Any:
        """Put a value into the object store, once for all workers; what they are given instead of it."""
        import ray

        return ray.put(value)

    def each(self, worker: type, shards: Sequence[str], shared: Any, *, model: bool) -> Iterator[Any]:
        """What workers give for each shard, in the order in which they are done.

        Ray Data gives shards to workers, and gives those of a worker that died to another one. A worker is called with
        a shard's name; it may be called again for the same one.

        Args:
            worker: a class; it is made once in each process, with ``shared``.
            shared: what ``share`` gave.
            model: whether it holds a model. Then it is an actor with ``threads`` CPUs; else it takes one, in processes
                that are there for every pass.

        Raises:
            Llm4dsrError: Ray cannot go on; what a worker raised passes.
        """
        import ray.data
        import ray.exceptions

        size, arguments = min(self.workers, len(shards)), {"worker": worker, "shared": shared}
        how: dict[str, Any] = {
            "fn": _Actor,
            "fn_constructor_kwargs": arguments,
            "compute": ray.data.ActorPoolStrategy(size=size),
            "num_cpus": self.threads,
        }
        if not model:
            pool = ray.data.TaskPoolStrategy(size=min(self.workers * self.threads, len(shards)))
            how = {"fn": _task, "fn_kwargs": arguments, "compute": pool, "num_cpus": 1}
        named = ray.data.from_items([{"shard": name} for name in shards], override_num_blocks=len(shards))
        try:
            for row in named.map_batches(**how, batch_size=1).iter_rows():
                done = pickle.loads(row["done"])
                if isinstance(done, _Failure):
                    raise done.error()
                yield done
        except (ray.exceptions.RayError, RuntimeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            # A traceback of a worker ends with what went wrong; what else Ray says begins with it.
            told = lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0]
            remedy = "run the same command again: finished shards are not done again"
            raise Llm4dsrError(f"Ray stopped ({told:.200})", remedy=remedy) from error


Batch = Mapping[str, Any]  # of Ray Data: columns by name
_made: dict[str, Any] = {}  # the worker of this process, by what it was made with


class _Actor:
    """A worker as Ray Data calls a class."""

    def __init__(self, worker: type, shared: Any) -> None:
        self._arguments = worker, shared

    def __call__(self, batch: Batch) -> dict[str, Any]:
        return _task(batch, *self._arguments)


def _task(batch: Batch, worker: type, shared: Any) -> dict[str, Any]:
    """A worker as Ray Data calls a function; what it raises is handed on, too.

    It is made here even for an actor, of whose constructor Ray tells no more than that it failed.
    """
    key = f"{worker.__name__} {shared.hex()}"
    results: list[bytes] = []
    for name in batch["shard"]:
        try:
            if key not in _made:
                _made.clear()
                _made[key] = worker(shared)
            done = _made[key](str(name))
        except Llm4dsrError as error:
            done = _Failure(type(error), error.what, error.where, error.remedy)
        results.append(pickle.dumps(done))
    return {"done": results}


@dataclass(frozen=True)
class _Failure:
    kind: type[Llm4dsrError]
    what: str
    where: str | None
    remedy: str | None

    def error(self) -> Llm4dsrError:
        error = self.kind.__new__(self.kind)
        Llm4dsrError.__init__(error, self.what, where=self.where, remedy=self.remedy)
        return error


@contextmanager
def joined(address: str = LOCAL, *, workers: int | None = None, threads: int | None = None) -> Iterator[Cluster]:
    """Ray at an address; what was started here ends with the block.

    Where this process has joined a cluster already, that one is taken, and stays.

    Args:
        address: "local" starts a Ray on this machine, with a small object store; "auto" and "HOST:PORT" are clusters
            that are there, of which this machine is a part.
        workers: how many hold a model; None is as many as the CPUs are enough for.
        threads: CPUs of each worker; None is MOST_THREADS, or as many as the smallest machine has.

    Raises:
        MissingExtraError: ray is not installed.
        OptionError: an argument is out of range, or there is no cluster.
    """
    ray = quiet_ray()
    if address.startswith("ray://"):
        what = f"`ray` is {address}, and Ray Data does not run through Ray's client"
        raise OptionError(what, remedy="run this on a machine of the cluster, as `ray job submit` does, and give auto")
    if not ADDRESS.fullmatch(address):
        raise OptionError(f"`ray` is {address}: no address", remedy="give local, auto or HOST:PORT")
    if workers is not None and workers < 1:
        raise OptionError(f"`ray_workers` is {workers}", remedy="give 1 or more")
    own = not ray.is_initialized()
    if own:
        where: dict[str, Any] = {"address": address}
        if address == LOCAL:
            where |= {"num_cpus": usable_cores(), "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        try:
            with _silent():
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            told = str(error).strip().partition("\n")[0]
            raise OptionError(
                f"`ray` is {address}, and no cluster answers there ({told:.200})",
                remedy="start one with `ray start`, or give local",
            ) from None
    try:
        yield measured(ray, address, workers, threads)
    finally:
        if own:
            ray.shutdown()


def measured(ray: Any, address: str, workers: int | None, threads: int | None) -> Cluster:
    """What a cluster that was joined has room for; see ``joined``. Raises OptionError where that is not enough."""
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    working = [n for n in cpus if n]
    if not working:
        raise OptionError("the cluster has no CPUs", remedy="add nodes that have some")
    threads = threads or min(MOST_THREADS, *working)
    most = sum(n // threads for n in working)
    if max(working) < threads:
        raise OptionError(f"`threads` is {threads}, and no machine has as many CPUs", remedy=f"give {max(working)}")
    if workers is not None and workers > most:
        raise OptionError(
            f"`ray_workers` is {workers}, of {threads} CPUs each: the cluster has room for {most}",
            remedy="give fewer, or fewer `threads`",
        )
    return Cluster(address, len(working), workers or most, threads, sum(working))


def quiet_ray() -> Any:
    """The module, which neither draws bars nor reports its use to anybody. Raises MissingExtraError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray Data's own actors are an error to Ray's core
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else each start warns of a change to come
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextmanager
def _silent() -> Iterator[None]:
    """Take away standard error, on which Ray's core tells its level of logging; what goes wrong is raised."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
