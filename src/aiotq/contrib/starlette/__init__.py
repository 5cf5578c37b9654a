"""Starlette, and FastAPI with it: a task's stream as server-sent events."""

from .events import sse

__all__ = ["sse"]
