"""Nodes as programs: `run_node` in one process, `serve` in several."""

from fastnode.workers.group import WorkerGroup, WorkerStatus
from fastnode.workers.serving import serve
from fastnode.workers.single import run_node

__all__ = ["WorkerGroup", "WorkerStatus", "run_node", "serve"]
