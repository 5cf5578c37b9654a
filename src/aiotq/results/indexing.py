"""Which ended tasks the index has, and what it says of them; made by the worker in which they ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..core.settings import Settings
from ..core.tracebacks import described
from ..core.values import sendable
from ..states import FAILURE, IGNORED, RETRY, REVOKED, SUCCESS
from ..tasks.request import PERIODIC_NAME, running_request
from ..wire.message import Message
from .index import Finished, IndexBounds, IndexEntry
from .shown_arguments import arguments_shown

#: Letters of an error.
_MOST_ERROR: Final = 300
#: By the setting `result_index`.
_LISTED: Final[Mapping[str, frozenset[str]]] = {
    "none": frozenset(),
    "failures": frozenset({FAILURE, REVOKED, RETRY}),
    "all": frozenset({FAILURE, REVOKED, RETRY, SUCCESS, IGNORED}),
}


def bounds_of(conf: Settings) -> IndexBounds | None:
    """Return how much the index keeps; None: nothing."""
    if conf.result_index == "none":
        return None
    return IndexBounds(conf.result_index_max, conf.result_index_expires)


class Indexing:
    """Makes the entries of the tasks that end in `worker`."""

    def __init__(self, conf: Settings, worker: str) -> None:
        self.states = _LISTED[conf.result_index]  #: tasks that end so, and attempts, have an entry
        self._worker = worker
        self._bounds = bounds_of(conf) or IndexBounds()
        self._shown = arguments_shown(conf)
        self._is_secret = bool(conf.encryption_keys)

    def entry(self, message: Message, queue: str, state: str, result: object, now: float) -> IndexEntry:
        """Return the entry of the call `message`, which ended in `state` with a value or an exception."""
        request = running_request.get()
        args, waited, ran = "", None, None
        if (request.id, request.attempt) == (message.id, message.runs_before):  # else it did not run
            runner: Any = request.runner
            args = self._shown.call(request.args, request.kwargs, () if runner is None else runner.parameters)
            if request.slot is not None:
                ran = request.slot.seconds
                ready_at = message.eta or message.sent_at
                if ready_at is not None:
                    waited = round(max(0.0, now - ran - ready_at), 6)
                ran = round(ran, 6)
        error = ""
        if isinstance(result, BaseException):
            text = type(result).__name__ if self._is_secret else described(result)
            error = sendable(" ".join(text.split()), _MOST_ERROR)
        periodic = message.headers.get(PERIODIC_NAME) if message.headers else None
        finished = Finished(
            message.id,
            state,
            message.task,
            now,
            queue,
            self._worker,
            args,
            error,
            waited,
            ran,
            message.retries,
            message.root_id,
            message.parent_id,
            periodic if isinstance(periodic, str) else None,
        )
        return IndexEntry(finished, self._bounds)
