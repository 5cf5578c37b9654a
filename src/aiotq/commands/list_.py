"""`aiotq list queues` and `aiotq list bindings`: where calls of an app may go, as it is declared."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import typer

from ..app import AioTQ
from ..core.inside import core_of
from ..exceptions import AioTQError
from ..transport.routing import bound_exchanges, declared_queues
from . import output
from .app_option import Target
from .command import command
from .tasks import queues_of
from .words import Json

list_: Final = typer.Typer(
    name="list",
    help="What an app declares: its queues, and how exchanges hand messages to them.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@list_.command("bindings")
@command()
def list_bindings(target: Target, as_json: Json = False) -> None:
    """List which keys of which exchange lead to which queue."""
    conf = target.load(with_tasks=False).conf
    found = [
        {"queue": queue, "exchange": bound.name, "type": bound.type, "routing_key": key}
        for bound in bound_exchanges(conf).values()
        for key, queue in bound.bindings
    ]
    # A queue that is not declared has an exchange and a key of its own name.
    declared = {each["queue"] for each in found}
    found += [
        {"queue": queue, "exchange": queue, "type": "direct", "routing_key": queue}
        for queue in declared_queues(conf)
        if queue not in declared
    ]
    if as_json:
        output.as_json(found)
        return
    rows = [tuple(each.values()) for each in found]
    output.table(("queue", "exchange", "type", "routing key"), rows, whole=("queue",))


@list_.command("queues")
@command()
def list_queues(target: Target, as_json: Json = False) -> None:
    """List the queues of an app: those it declares and those its tasks go to. `aiotq queues` counts what waits."""
    app = target.load()
    by_queue = _tasks_by_queue(app)
    declared = declared_queues(app.conf)
    names = [*declared, *sorted(by_queue.keys() - set(declared))]
    if as_json:
        output.as_json(
            [{"name": name, "is_declared": name in declared, "tasks": by_queue.get(name, [])} for name in names]
        )
        return
    rows = [
        (name, "task_queues" if name in declared else "routes", ", ".join(by_queue.get(name, []))) for name in names
    ]
    output.table(("queue", "declared by", "tasks"), rows, whole=("queue",))


def _tasks_by_queue(app: AioTQ) -> dict[str, list[str]]:
    by_queue: dict[str, list[str]] = {}
    for name, task in sorted(core_of(app).registry.own_tasks.items()):
        with suppress(AioTQError):  # `aiotq tasks` says why it has none
            for queue in queues_of(app, task):
                by_queue.setdefault(queue, []).append(name)
    return by_queue
