"""A client for programs without asyncio: Django, Celery, scripts, notebooks."""

from fastnode.blocking.client import Client

__all__ = ["Client"]
