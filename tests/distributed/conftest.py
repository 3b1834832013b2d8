"""A real Ray on this machine, with two CPUs, for the tests of one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import clean_environment

from llm4dsr_cli.distributed.cluster import OBJECT_STORE_BYTES, quiet_ray


@pytest.fixture(scope="module")
def two_cpus(warm_cache: Path) -> Iterator[None]:
    """Its processes inherit the cache folder that the tests use."""
    with pytest.MonkeyPatch.context() as environment:
        clean_environment(environment)
        environment.setenv("LLM4DSR_CACHE", str(warm_cache))
        ray = quiet_ray()
        ray.init(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES // 4, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
