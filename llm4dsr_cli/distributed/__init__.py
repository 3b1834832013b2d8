"""Distributed: the same cleaning on several processes or machines, by Ray Data; the only place that imports ray."""

from llm4dsr_cli.distributed.cluster import Cluster, joined
from llm4dsr_cli.distributed.dataset import clean_dataset
from llm4dsr_cli.distributed.run import FolderRun, Shards, clean_folder

__all__ = ["Cluster", "FolderRun", "Shards", "clean_dataset", "clean_folder", "joined"]
