"""Several processes, on one or several machines, that write one set."""

from dpd_runtime.dataset.shards.shard import WHOLE, Shard, parse_shard
from dpd_runtime.dataset.shards.worker import LOCK_FILE, Worker

__all__ = ["LOCK_FILE", "WHOLE", "Shard", "Worker", "parse_shard"]
