"""What the record of a step says of those around it, so that a workflow can be drawn from its records alone.

Each list is cut short: it is there to be looked at, and nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from ..core.values import value

#: Ids in each list.
MOST: Final = 100


@value
class Neighbours:
    """Ids of tasks and groups around a task in its workflow."""

    root_id: str | None = None  #: the first task of it all; None: itself
    group_id: str | None = None
    index: int | None = None  #: where it stands among the members of that group
    awaits: str | None = None  #: the group whose values it was called with, as the first of what comes then ...
    begins: str | None = None  #: ... which is this group, if it is one
    members: tuple[str, ...] = ()  #: the tasks that gave those values
    next: tuple[str, ...] = ()  #: first tasks of the next step of its chain
    join: str | None = None  #: the group that it ends in, if that is not its own, or if it knows what comes then:
    body: tuple[str, ...] = ()  #: these first tasks
    callbacks: tuple[str, ...] = ()
    errbacks: tuple[str, ...] = ()
    prevented: tuple[str, ...] = ()  #: later steps of its chain that were not run, because it failed

    def plain(self) -> dict[str, Any]:
        """Return it as a mapping, without what is empty."""
        said: dict[str, Any] = {}
        for name in _IDS:
            if (given := getattr(self, name)) is not None:
                said[name] = given
        if self.index is not None:
            said["index"] = self.index
        for name in _LISTS:
            if given := getattr(self, name):
                said[name] = list(given[:MOST])
        return said


_IDS: Final = ("root_id", "group_id", "awaits", "begins", "join")
_LISTS: Final = ("members", "next", "body", "callbacks", "errbacks", "prevented")
NO_NEIGHBOURS: Final = Neighbours()


def neighbours_of(given: object) -> Neighbours:
    """Return what a document says; what can't be read in it is left out."""
    if not given or not isinstance(given, Mapping):
        return NO_NEIGHBOURS
    said = cast("Mapping[str, object]", given)
    found: dict[str, Any] = {name: told for name in _IDS if isinstance(told := said.get(name), str)}
    if isinstance(index := said.get("index"), int):
        found["index"] = index
    for name in _LISTS:
        if isinstance(told := said.get(name), list):
            ids = cast("list[object]", told)[:MOST]
            found[name] = tuple(each for each in ids if isinstance(each, str))
    return Neighbours(**found)
