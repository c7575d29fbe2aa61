"""More than one core: one node name, several processes, one port."""

from fastnode.workers.group import WorkerGroup, WorkerStatus
from fastnode.workers.serving import serve

__all__ = ["WorkerGroup", "WorkerStatus", "serve"]
