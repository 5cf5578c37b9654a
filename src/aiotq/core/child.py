"""Whether this process is a child that runs CPU-bound tasks: what such a one can't do is refused there."""

from __future__ import annotations

_is_child = False


def is_child() -> bool:
    """Return whether this process is one of a pool's children."""
    return _is_child


def become_child() -> None:
    """Note that this process is one, for as long as it lives."""
    global _is_child  # noqa: PLW0603  # it is the process that is one
    _is_child = True
