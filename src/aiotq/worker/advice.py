"""What a worker says at its start of settings that can't be kept, or may be meant otherwise."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Any

from ..core.settings import Settings
from ..tasks.task import Task
from ..transport.routing import declared_queues

logger = logging.getLogger("aiotq.worker")


def check_queues(conf: Settings, queues: Collection[str]) -> None:
    """Say that calls go where nobody may look: all declared queues are consumed, and theirs is not among them."""
    default = conf.task_default_queue
    declared = declared_queues(conf)
    if default not in declared and set(queues) == set(declared):
        logger.warning(
            "task_default_queue %r is not in task_queues, and this worker does not consume from it: calls without "
            "another route wait there",
            default,
        )


def check_tasks(conf: Settings, tasks: Iterable[Task[..., Any]]) -> None:
    """Say which tasks the settings' time limits don't hold for, whatever the level of the log is."""
    if conf.task_time_limit is not None:
        threads = sorted(task.name for task in tasks if task.runs_in == "thread")
        if threads:
            logger.log(
                max(logging.WARNING, logger.getEffectiveLevel()),
                "task_time_limit does not hold for tasks that run in threads, which can't be stopped: %s; "
                'give them run="process", or a soft_time_limit',
                ", ".join(threads),
            )
