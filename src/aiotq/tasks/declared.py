"""What a task declares, as its attributes: read by anybody, checked when one is set anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ..exceptions import InvalidOption
from .options import READABLE, TUPLES, RunsIn, TaskOptions, check_declaration, check_limits

#: What a task is registered and called by.
_FIXED: Final = frozenset({"name", "run", "bind", "shadow_name"})


class Declared:
    """The options of a task, which are its attributes (`add.rate_limit`).

    One that is set anew holds in this process, from the task's next call or run on.
    """

    name: str
    runs_in: RunsIn
    declared: TaskOptions

    bind: bool
    typing: bool
    queue: str | None
    exchange: str | None
    routing_key: str | None
    priority: int | None
    serializer: str | None
    compression: str | None
    ignore_result: bool | None
    acks_late: bool | None
    track_started: bool | None
    expires: float | None
    soft_time_limit: float | None
    time_limit: float | None
    max_retries: int | None
    default_retry_delay: float
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: float | bool
    retry_backoff_max: float
    retry_jitter: bool
    reject_on_worker_lost: bool | None
    max_deliveries: int | None
    store_errors_even_if_ignored: bool | None
    throws: tuple[type[BaseException], ...]
    trail: bool
    resultrepr_maxsize: int
    rate_limit: str | float | None
    max_concurrency: int | None

    def __setattr__(self, name: str, given: Any) -> None:
        if name in _FIXED:
            raise InvalidOption(f"task {self.name}: {name} stands in its declaration and can't be changed later")
        if name not in READABLE:
            super().__setattr__(name, given)
            return
        check_declaration({name: given})
        wanted: Any = {name: tuple(given) if name in TUPLES else given}
        self.declare(replace(self.declared, **wanted))

    def declare(self, options: TaskOptions) -> None:
        """Be as `options` say, in place of what was declared before.

        Raises:
            InvalidOption: they don't go with each other, or with how the task runs.
        """
        if self.runs_in == "thread" and options.time_limit is not None:
            raise InvalidOption(
                f'task {self.name}: a thread can\'t be stopped, so time_limit needs an async def or run="process"'
            )
        check_limits(f"task {self.name}", options.soft_time_limit, options.time_limit)
        self.declared = options
        self.__dict__.update((name, getattr(options, name)) for name in READABLE)
