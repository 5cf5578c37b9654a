"""What the API can be asked and told: a table of functions, from which its routes and its OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, cast

from ...beat.manage import Schedules
from ...calling.core import AppCore
from ...control.acts import delete, run_again
from ...control.admin import Admin
from ...control.asking import Answers
from ...control.queries import Queries
from ...control.remote import Control
from ...control.views import plain_all, plain_member
from ...core.values import value
from ...exceptions import InvalidOption
from ...results.index import FinishedQuery
from ...tasks.options import CallOptions

Kind = Literal["string", "integer", "number", "boolean", "array", "object"]


@value
class Parameter:
    """A parameter of a query or a field of a body."""

    name: str
    kind: Kind
    meaning: str
    is_needed: bool = False


@value
class Asked:
    """One request: the names in its path, and what it brings, checked."""

    core: AppCore
    queries: Queries
    path: Mapping[str, str]
    given: Mapping[str, Any]


@value
class Operation:
    """One thing that can be asked (GET) or told (POST, for those who may operate)."""

    method: Literal["GET", "POST"]
    path: str
    summary: str
    answer: Callable[[Asked], Awaitable[Any]]
    parameters: tuple[Parameter, ...] = ()
    answers: str = "object"  #: the name of what is answered, in the document


async def _overview(asked: Asked) -> Any:
    return (await asked.queries.overview(asked.given.get("minutes", 60))).plain()


async def _findings(asked: Asked) -> Any:
    return plain_all(await asked.queries.findings())


async def _queues(asked: Asked) -> Any:
    return [each.plain() for each in await asked.queries.queues()]


async def _workers(asked: Asked) -> Any:
    return [plain_member(each) for each in await asked.queries.fleet()]


async def _running(asked: Asked) -> Any:
    return [each.plain() for each in await asked.queries.running()]


async def _tasks(asked: Asked) -> Any:
    given = dict(asked.given)
    states = tuple(each.strip().upper() for each in given.pop("state", "").split(",") if each.strip())
    live = await asked.queries.live() if given.pop("live", True) else None
    return (await asked.queries.calls(FinishedQuery(states=states, **given), live)).plain()


async def _task(asked: Asked) -> Any:
    return (await asked.queries.call(asked.path["id"])).plain()


async def _workflows(asked: Asked) -> Any:
    return (await asked.queries.workflows(asked.given.get("limit", 20), asked.given.get("cursor"))).plain()


async def _schedules(asked: Asked) -> Any:
    return [each.to_dict() for each in await asked.queries.schedules()]


async def _dead(asked: Asked) -> Any:
    letters = await asked.queries.dead_letters(asked.given.get("queue"), limit=asked.given.get("limit", 100))
    return plain_all(letters)


async def _send(asked: Asked) -> Any:
    core, given = asked.core, asked.given
    told = {name: given[name] for name in ("queue", "countdown", "priority", "expires") if name in given}
    name: str = given["task"]
    result = await core.call(
        core.tasks.get(name, name), given.get("args", []), given.get("kwargs", {}), cast(CallOptions, told)
    )
    return {"id": result.id}


async def _revoke(asked: Asked) -> Any:
    await Admin(asked.core).revoke(asked.path["id"], terminate=asked.given.get("terminate", False))
    return {"revoked": asked.path["id"]}


async def _again(asked: Asked) -> Any:
    task_id, is_replayed = await run_again(
        asked.core, asked.path["id"], asked.given.get("args"), asked.given.get("kwargs")
    )
    return {"id": task_id, "replayed": is_replayed}


async def _delete(asked: Asked) -> Any:
    return {"deleted": await delete(asked.core, [asked.path["id"]])}


async def _pause_queue(asked: Asked) -> Any:
    return {"changed": await Admin(asked.core).pause(asked.path["name"])}


async def _resume_queue(asked: Asked) -> Any:
    return {"changed": await Admin(asked.core).resume(asked.path["name"])}


async def _purge_queue(asked: Asked) -> Any:
    name = asked.path["name"]
    if asked.given.get("confirm") != name:
        raise InvalidOption(f"confirm must be the queue's name, {name!r}: what waits in it is deleted")
    return {"deleted": await Admin(asked.core).purge(name)}


def _worker_command(command: str, *, counts: bool = False) -> Callable[[Asked], Awaitable[Any]]:
    """Return what tells one worker a command."""

    async def tell(asked: Asked) -> Any:
        args = [asked.given.get("n", 1), asked.given.get("kind", "loop")] if counts else []
        answers: Answers = await Control(asked.core).broadcast(command, args, destination=[asked.path["name"]])
        return {"answers": dict(answers), "silent": list(answers.silent)}

    return tell


async def _pause_schedule(asked: Asked) -> Any:
    await Schedules(asked.core).pause(asked.path["name"])
    return {"paused": asked.path["name"]}


async def _resume_schedule(asked: Asked) -> Any:
    await Schedules(asked.core).resume(asked.path["name"])
    return {"resumed": asked.path["name"]}


async def _fire(asked: Asked) -> Any:
    return {"id": (await Schedules(asked.core).fire(asked.path["name"])).id}


async def _replay(asked: Asked) -> Any:
    keys = asked.given.get("keys")
    if (keys is None) == (asked.given.get("queue") is None and not asked.given.get("all", False)):
        raise InvalidOption("name the dead letters by keys, or say all (with queue: all of that queue)")
    admin = Admin(asked.core)
    count = await (admin.replay_all(asked.given.get("queue")) if keys is None else admin.replay(keys))
    return {"replayed": count}


async def _purge_dead(asked: Asked) -> Any:
    if not asked.given.get("confirm", False):
        raise InvalidOption("confirm must be true: dead letters are deleted")
    older = asked.given.get("older_than")
    return {"deleted": await Admin(asked.core).purge_dead(asked.given.get("queue"), older_than=older)}


_LIMIT: Final = Parameter("limit", "integer", "At most so many.")
_CURSOR: Final = Parameter("cursor", "string", "Go on where the last page ended.")
_SEARCH: Final = (
    Parameter("state", "string", "Only those that ended so: SUCCESS, FAILURE, REVOKED, IGNORED; commas between them."),
    Parameter("name", "string", "Only calls of this task."),
    Parameter("queue", "string", "Only those of this queue."),
    Parameter("worker", "string", "Only those of this worker."),
    Parameter("id_prefix", "string", "Only those whose ids begin so."),
    Parameter("root_id", "string", "Only those of this workflow."),
    Parameter("parent_id", "string", "Only those that this call made."),
    Parameter("periodic", "string", "Only runs of this periodic task."),
    Parameter("since", "number", "Only those that ended at this time or later (seconds since the epoch)."),
    Parameter("until", "number", "Only those that ended at this time or earlier."),
    Parameter("text", "string", "Only those with this in arguments, error, name or id."),
    *(_LIMIT, _CURSOR),
    Parameter("live", "boolean", "False: without those that run or are delayed."),
)
_ARGS: Final = (
    Parameter("args", "array", "Arguments by position."),
    Parameter("kwargs", "object", "Arguments by name."),
)
_OLDER: Final = Parameter("older_than", "number", "Only those that died so many seconds ago, or earlier.")
_OF_QUEUE: Final = Parameter("queue", "string", "Only those of this queue.")
_SLOTS: Final = (
    Parameter("n", "integer", "By so many."),
    Parameter("kind", "string", "`loop` (coroutines) or `thread`."),
)
_CONFIRM_NAME: Final = Parameter("confirm", "string", "The queue's name once more.", is_needed=True)
_CONFIRM: Final = Parameter("confirm", "boolean", "True.", is_needed=True)

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        *("GET", "/overview", "How things stand: figures by minute, what needs a look, queues, workers", _overview),
        (Parameter("minutes", "integer", "Sum figures of so many of the last minutes, up to 60."),),
        answers="Overview",
    ),
    Operation("GET", "/findings", "What needs a look, the worst first", _findings, answers="[Finding]"),
    Operation("GET", "/queues", "The queues, and how each keeps up", _queues, answers="[Queue]"),
    Operation("GET", "/workers", "The workers and schedulers", _workers, answers="[Worker]"),
    Operation("GET", "/running", "The calls that run", _running, answers="[LiveCall]"),
    Operation("GET", "/tasks", "Calls that run, wait or have finished", _tasks, _SEARCH, answers="Calls"),
    Operation("GET", "/tasks/{id}", "All that is known of a call", _task, answers="Call"),
    Operation("GET", "/workflows", "Workflows, and how far they are", _workflows, (_LIMIT, _CURSOR), "Workflows"),
    Operation("GET", "/schedules", "The periodic tasks", _schedules, answers="[object]"),
    Operation("GET", "/dead", "Dead letters, the newest first", _dead, (_OF_QUEUE, _LIMIT), "[DeadLetter]"),
    Operation(
        *("POST", "/send", "Call a task", _send),
        (
            Parameter("task", "string", "Its name.", is_needed=True),
            *_ARGS,
            Parameter("queue", "string", "The queue, if not the one it goes to by itself."),
            Parameter("countdown", "number", "Seconds from now until it may start."),
            Parameter("priority", "integer", "0 to 9, 9 first."),
            Parameter("expires", "number", "Seconds from now after which it is not started."),
        ),
    ),
    Operation(
        *("POST", "/tasks/{id}/revoke", "Have a call not run", _revoke),
        (Parameter("terminate", "boolean", "End it where it runs."),),
    ),
    Operation(
        "POST", "/tasks/{id}/again", "Run a call once more, with other arguments if any are given", _again, _ARGS
    ),
    Operation("POST", "/tasks/{id}/delete", "Delete what is kept of a call that has ended", _delete),
    Operation("POST", "/queues/{name}/pause", "Have all workers take no more from a queue", _pause_queue),
    Operation("POST", "/queues/{name}/resume", "Have all workers take from a queue again", _resume_queue),
    Operation("POST", "/queues/{name}/purge", "Delete what waits in a queue", _purge_queue, (_CONFIRM_NAME,)),
    Operation("POST", "/workers/{name}/pause", "Have a worker take no more", _worker_command("pause")),
    Operation("POST", "/workers/{name}/resume", "Have a worker go on", _worker_command("resume")),
    Operation("POST", "/workers/{name}/shutdown", "Stop a worker cleanly", _worker_command("shutdown")),
    Operation("POST", "/workers/{name}/grow", "Give it more slots", _worker_command("pool_grow", counts=True), _SLOTS),
    Operation(
        "POST", "/workers/{name}/shrink", "Give it fewer slots", _worker_command("pool_shrink", counts=True), _SLOTS
    ),
    Operation("POST", "/schedules/{name}/pause", "Send no occurrences of a periodic task", _pause_schedule),
    Operation("POST", "/schedules/{name}/resume", "Send its occurrences again, from now on", _resume_schedule),
    Operation("POST", "/schedules/{name}/fire", "Send it now, once more", _fire),
    Operation(
        *("POST", "/dead/replay", "Send dead letters to their queues again", _replay),
        (
            Parameter("keys", "array", "Their keys, or the ids of their tasks."),
            Parameter("all", "boolean", "All of them."),
            _OF_QUEUE,
        ),
    ),
    Operation("POST", "/dead/purge", "Delete dead letters", _purge_dead, (_OF_QUEUE, _OLDER, _CONFIRM)),
)
