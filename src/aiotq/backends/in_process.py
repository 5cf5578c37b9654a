"""What an app has of this process alone, where neither its broker nor its stores have it."""

from __future__ import annotations

from ..control.bus import Bus
from .memory.bus import MemoryBus


def local_bus() -> Bus:
    """Return a bus that reaches this process and no other."""
    return MemoryBus()
