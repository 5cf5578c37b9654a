"""Calls that are sent when a transaction of Django's is committed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Unpack, cast

from ..calling.arguments import given_arguments
from ..core.sync import expect_no_loop
from ..exceptions import CallError
from .options import CallOptions, check_options, said

if TYPE_CHECKING:
    from .task import Task

P = ParamSpec("P")


class OnCommit(Generic[P]):
    """The methods of a task that send a call after a commit.

    Source: Django, "Database transactions" (Performing actions after commit).
    """

    def delay_on_commit(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call it when Django's transaction is committed, at once if none is open, and never if it is rolled back."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        """As `delay_on_commit`, with options.

        Raises:
            CallError: Django is not installed, this thread runs an event loop, or the call can't be sent so.
        """
        task = cast("Task[P, Any]", self)
        expect_no_loop(
            f"await sync_to_async({task.name}.delay_on_commit)(…)",
            "a transaction of Django's belongs to the thread that opened it, and none is open here",
        )
        given_args, given_kwargs = given_arguments(task.name, args, kwargs)
        task.check(given_args, given_kwargs)
        kept = said(options)
        check_options(task.name, kept, runs_in=task.runs_in)
        try:
            transaction: Any = importlib.import_module("django.db.transaction")
        except ModuleNotFoundError as exc:
            if (exc.name or "").partition(".")[0] != "django":
                raise
            raise CallError(
                f"{task.name}: a call that waits for a commit needs Django, which is not installed"
            ) from exc
        transaction.on_commit(partial(task.sync.apply_async, given_args, given_kwargs, **kept))
