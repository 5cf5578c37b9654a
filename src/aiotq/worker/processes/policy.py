"""How the children of a worker start, and how long each is used: what the settings say, in one value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...core.settings import Settings
from ...tasks.task import Task
from .starting import StartMethod


@dataclass(frozen=True, slots=True)
class ChildPolicy:
    """How children start, and how long each is used: so many tasks, or until it has more kB of memory after one.

    `is_warm`: they start with the pool; otherwise when they are first needed.
    """

    method: StartMethod = field(default_factory=StartMethod)
    max_tasks: int | None = None
    max_memory: int | None = None
    is_warm: bool = False

    def __post_init__(self) -> None:
        for name, most in (("max_tasks_per_child", self.max_tasks), ("max_memory_per_child", self.max_memory)):
            if most is not None and most < 1:
                raise ValueError(f"{name} must be at least 1, not {most}")
        self.method.check()


def child_policy(conf: Settings, tasks: Iterable[Task[..., Any]]) -> ChildPolicy:
    """Return the policy for children of an app with these settings and tasks.

    Raises:
        InvalidOption: children can't be started as the settings say.
    """
    modules = sorted({task.fn.__module__ for task in tasks if task.runs_in == "process"})
    return ChildPolicy(
        StartMethod(conf.worker_process_start, modules, conf.worker_process_preload),
        max_tasks=conf.worker_max_tasks_per_child,
        max_memory=conf.worker_max_memory_per_child,
        is_warm=conf.worker_warm_processes and bool(modules),
    )
