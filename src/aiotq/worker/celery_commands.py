"""Obeys the commands of Celery's own tools: `celery inspect`, `celery status`, `celery control`, Flower.

They are ours under Celery's names; where Celery has other arguments, or answers in another form, this translates.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, cast

from ..control.admin import Admin
from ..control.celery_mail import CeleryCommand, CeleryMail
from ..control.commands import Steered
from ..core.aio import finish
from ..core.logs import WarnOnce
from ..core.values import shown
from ..exceptions import AioTQError, CallError, OperationalError
from .obeying import Obeying

logger = logging.getLogger("aiotq.control")

#: Commands that wait, at most; more are dropped.
_MOST_WAITING: Final = 100
#: Seconds that an answer may take to be sent.
_SENDING: Final = 5.0
#: Seconds after which it is tried again to hear commands.
_AGAIN: Final = 5.0
#: What Celery's workers say to each other, to which ours have nothing to say.
_NOT_FOR_US: Final = frozenset({"hello", "election"})
#: What Celery calls an argument, and what it is called here.
_RENAMED: Final[Mapping[str, Mapping[str, str]]] = {
    "rate_limit": {"rate_limit": "rate"},
}
#: Arguments of Celery's that mean nothing here.
_LEFT_OUT: Final[Mapping[str, frozenset[str]]] = {
    "active": frozenset({"safe"}),
    "reserved": frozenset({"safe"}),
    "registered": frozenset({"taskinfoitems", "builtins"}),
    "conf": frozenset({"with_defaults"}),
    "add_consumer": frozenset({"exchange", "exchange_type", "routing_key"}),
    "pool_restart": frozenset({"modules", "reload", "reloader"}),
}


class CeleryCommands:
    """Hears Celery's commands on `mail` while `run` lasts, and answers for `worker`, which obeys as `commands` say."""

    def __init__(self, mail: CeleryMail, worker: Steered, commands: Obeying) -> None:
        self._mail = mail
        self._worker = worker
        self._commands = commands
        self._counts = worker.commands
        self._waiting: asyncio.Queue[CeleryCommand] = asyncio.Queue(_MOST_WAITING)
        self._own: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
            "revoke": self._revoke,
            "terminate": self._terminate,
            "revoke_by_stamped_headers": self._revoke_by_stamps,
            "query_task": self._query_task,
            "scheduled": self._scheduled,
        }

    async def run(self) -> None:
        """Obey until cancelled."""
        if self._worker.core.signer is not None:
            logger.warning("Celery's tools can't sign commands, and this app asks for it: theirs are not obeyed")
            return
        complaint = WarnOnce(logger, "the commands of Celery's tools can't be heard")
        while True:
            try:
                async with self._mail.serving(self._heard):
                    complaint.withdraw()
                    await self._obey_all()
            except OperationalError as exc:
                complaint.make(exc)
            await asyncio.sleep(_AGAIN * random.uniform(0.7, 1.3))

    async def _obey_all(self) -> None:
        while True:
            command = await self._waiting.get()
            try:
                await self._obey(command)
            except (OperationalError, TimeoutError) as exc:  # who asked learns that no answer came
                logger.debug("the answer to Celery's %s could not be sent: %s", command.method, exc)
            except Exception:  # a defect must not end the worker
                logger.exception("Celery's command %s failed", command.method)

    def _heard(self, command: CeleryCommand) -> None:
        """Called in the loop with what came; it returns at once."""
        if command.is_ours or command.method in _NOT_FOR_US or not self._is_meant(command):
            return
        if self._waiting.full():
            self._counts["dropped"] = self._counts.get("dropped", 0) + 1
        else:
            self._waiting.put_nowait(command)

    def _is_meant(self, command: CeleryCommand) -> bool:
        if command.destination is not None:
            return self._worker.name in command.destination
        return command.pattern is None or fnmatchcase(self._worker.name, command.pattern)

    async def _obey(self, command: CeleryCommand) -> None:
        try:
            answer = await self._answer(command.method, command.arguments)
        except AioTQError as exc:
            answer = {"error": str(exc)}
        except TimeoutError:
            answer = {"error": f"{command.method} took too long"}
        except Exception as exc:
            logger.exception("Celery's command %s failed", command.method)
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        # A worker that is told to stop answers first.
        await finish(self._mail.reply(command, {self._worker.name: answer}), _SENDING)

    async def _answer(self, method: str, arguments: Mapping[str, Any]) -> Any:
        own = self._own.get(method)
        if own is not None:
            return await own(arguments)
        names = _RENAMED.get(method, {})
        left_out = _LEFT_OUT.get(method, frozenset())
        given = {names.get(name, name): each for name, each in arguments.items() if name not in left_out}
        answer = await self._commands.call(method, (), given)
        form = _FORMS.get(method)
        return answer if form is None else form(self._worker, answer)

    async def _revoke(self, arguments: Mapping[str, Any]) -> Any:
        ids = _ids(arguments.get("task_id"))
        terminate = bool(arguments.get("terminate"))
        await Admin(self._worker.core, is_celery_told=True).revoke(*ids, terminate=terminate)
        return {"ok": f"tasks {', '.join(ids)} flagged as revoked"}

    async def _terminate(self, arguments: Mapping[str, Any]) -> Any:
        return await self._revoke({**arguments, "terminate": True})

    async def _revoke_by_stamps(self, arguments: Mapping[str, Any]) -> Any:
        stamps = arguments.get("headers")
        if not isinstance(stamps, dict):
            raise CallError(f"revoke_by_stamped_headers: headers are stamps with their values, not {shown(stamps)}")
        await Admin(self._worker.core, is_celery_told=True).revoke(
            stamps=cast("dict[str, Any]", stamps), terminate=bool(arguments.get("terminate"))
        )
        return {"ok": "calls with these stamps flagged as revoked"}

    async def _scheduled(self, arguments: Mapping[str, Any]) -> Any:
        return []  # RabbitMQ does not list what it has delayed, and Flower takes nothing but a list

    async def _query_task(self, arguments: Mapping[str, Any]) -> Any:
        return await self._commands.call("query_task", _ids(arguments.get("ids")), {})


def _ids(given: Any) -> list[str]:
    found: object = [given] if isinstance(given, str) else given
    if isinstance(found, (list, tuple)):
        ids = [each for each in cast("Sequence[object]", found) if isinstance(each, str)]
        if ids and len(ids) == len(cast("Sequence[object]", found)):
            return ids
    raise CallError(f"ids of calls are texts, not {shown(given)}")


def _as_calls(worker: Steered, answer: Any) -> Any:
    """Return calls with what Celery's tools look for in one."""
    return [
        {
            **call,
            "delivery_info": {
                "exchange": "",
                "routing_key": call["queue"],
                "priority": call["priority"],
                "redelivered": call["redelivered"],
            },
        }
        for call in answer
    ]


def _as_stats(worker: Steered, answer: Any) -> Any:
    slots = answer["pool"]
    return {
        **answer,
        "uptime": int(answer["uptime"]),
        "clock": str(int(answer["clock"])),
        "prefetch_count": sum(each["max"] for each in slots.values()),
        "broker": {"transport": "amqp"},
        "pool": {
            "implementation": "aiotq",
            "max-concurrency": sum(each["max"] for each in slots.values()),
            "processes": [os.getpid()],
            "slots": slots,
        },
    }


def _as_queues(worker: Steered, answer: Any) -> Any:
    return [
        {
            **queue,
            "alias": None,
            "auto_delete": False,
            "bindings": [],
            "durable": True,
            "exchange": {"name": "", "type": "direct"},
            "exclusive": False,
            "routing_key": queue["name"],
        }
        for queue in answer
    ]


def _as_ids(worker: Steered, answer: Any) -> Any:
    return [each["what"] for each in answer]


_FORMS: Final[Mapping[str, Callable[[Steered, Any], Any]]] = {
    "active": _as_calls,
    "reserved": _as_calls,
    "stats": _as_stats,
    "active_queues": _as_queues,
    "revoked": _as_ids,
}
