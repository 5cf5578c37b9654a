"""The colours of states in drawings."""

from __future__ import annotations

from typing import Final

from .. import states

#: Fill, border and text; legible for those who see no difference between red and green too, who have the words.
_COLOURS: Final[dict[str | None, tuple[str, str, str]]] = {
    None: ("#eef3fb", "#7a93b8", "#1f2d3d"),
    states.PENDING: ("#f4f4f4", "#a8a8a8", "#555555"),
    states.RECEIVED: ("#f4f4f4", "#a8a8a8", "#555555"),
    states.SUCCESS: ("#ddf3e0", "#3d9a50", "#16431f"),
    states.FAILURE: ("#fbdedb", "#c0392b", "#5c1710"),
    states.REVOKED: ("#eadff2", "#8456a8", "#3b2151"),
    states.RETRY: ("#fdeecb", "#c98a12", "#5a3d05"),
}
_RUNNING: Final = ("#d9ebfd", "#2b7bc0", "#10385c")


def colours_of(state: str | None) -> tuple[str, str, str]:
    """Return fill, border and text of a node in `state`; custom states are those of running tasks."""
    return _COLOURS.get(state, _RUNNING)
