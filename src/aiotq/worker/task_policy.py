"""The policy of each task, worked out once from its declaration and the settings."""

from __future__ import annotations

from typing import Any

from ..canvas.outcome import Policy
from ..core.settings import Settings
from ..tasks.task import Task


class TaskPolicy:
    """How the runs of one task are treated."""

    __slots__ = (
        "declared",
        "expires",
        "if_ignored",
        "if_kept",
        "is_acked_early",
        "max_deliveries",
        "rebuilding",
        "rejects_lost",
        "tracks_start",
    )

    def __init__(self, task: Task[..., Any], conf: Settings) -> None:
        declared = task.declared

        def wanted(given: bool | None, default: bool) -> bool:
            return default if given is None else given

        self.declared = declared
        self.max_deliveries = conf.task_max_deliveries if declared.max_deliveries is None else declared.max_deliveries
        self.is_acked_early = not wanted(declared.acks_late, conf.task_acks_late)
        self.tracks_start = wanted(declared.track_started, conf.task_track_started)
        self.rejects_lost = wanted(declared.reject_on_worker_lost, conf.task_reject_on_worker_lost)
        self.expires = declared.expires
        #: What becomes of arguments first; None for most.
        self.rebuilding = task.rebuilding() if wanted(declared.typing, conf.strict_arguments) else None
        keeps_errors = wanted(declared.store_errors_even_if_ignored, conf.task_store_errors_even_if_ignored)
        self.if_kept = Policy(False, keeps_errors)
        self.if_ignored = Policy(True, keeps_errors)


class TaskPolicies:
    """The policies of the tasks that ran here."""

    def __init__(self, conf: Settings) -> None:
        self._conf = conf
        self._known: dict[str, TaskPolicy] = {}

    def of(self, task: Task[..., Any]) -> TaskPolicy:
        """Return the policy of `task`; made anew when another task has its name, or its options were changed."""
        found = self._known.get(task.name)
        if found is None or found.declared is not task.declared:
            found = self._known[task.name] = TaskPolicy(task, self._conf)
        return found
