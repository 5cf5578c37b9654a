"""The part of a task's record that tells of its workflow: its root, and the calls that its end has sent.

With the plans of workflows (see `PLAN`) that is enough to draw them; nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from ..core.values import value

#: Ids in each list.
MOST: Final = 100
#: The state of the record that keeps a workflow's plan; its result is the plan (see `graph.builder`).
PLAN: Final = "PLAN"


def plan_id(first_id: str, replacement: int = 0) -> str:
    """Return the id under which the plan of the workflow that begins with the call `first_id` is stored.

    `replacement`: of the workflow that took the place of that call, when it was replaced so often.
    """
    return f"plan:{first_id}:{replacement}" if replacement else f"plan:{first_id}"


def first_of_plan(key: str) -> str:
    """Return the id of the call that the plan of a workflow begins with, which is kept under `key`."""
    return key.partition(":")[2]


@value
class Lineage:
    """Ids around a task: the first task of its workflow, and the first calls of all that its end has sent."""

    root_id: str | None = None  #: None: itself
    replacements: int = 0  #: how often it stands for a call that it replaced
    callbacks: tuple[str, ...] = ()
    errbacks: tuple[str, ...] = ()
    added: tuple[str, ...] = ()  #: members of its chord

    def plain(self) -> dict[str, Any]:
        """Return it as a mapping, without what is empty."""
        told: dict[str, Any] = {}
        if self.root_id is not None:
            told["root_id"] = self.root_id
        if self.replacements:
            told["replacements"] = self.replacements
        for name in _LISTS:
            if ids := getattr(self, name):
                told[name] = list(ids[:MOST])
        return told


_LISTS: Final = ("callbacks", "errbacks", "added")
NO_LINEAGE: Final = Lineage()


def lineage_of(given: object) -> Lineage:
    """Return what a document says; what can't be read in it is left out."""
    if not given or not isinstance(given, Mapping):
        return NO_LINEAGE
    told = cast("Mapping[str, object]", given)
    root_id, replacements = told.get("root_id"), told.get("replacements")
    return Lineage(
        root_id if isinstance(root_id, str) else None,
        replacements if isinstance(replacements, int) else 0,
        *(_ids(told.get(name)) for name in _LISTS),
    )


def _ids(given: object) -> tuple[str, ...]:
    if not isinstance(given, list):
        return ()
    return tuple(each for each in cast("list[object]", given)[:MOST] if isinstance(each, str))
