# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""Run by the Python of `.venv-celery`: a client that does what it is told, one JSON line after another, or a worker."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

from celery import Celery, chain, chord, group, signature
from celery.result import AsyncResult
from celery.schedules import crontab

app = Celery("theirs", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
app.conf.update(json.loads(os.environ.get("CONF", "{}")))


@app.task(name="theirs.add")
def add(x, y):
    return x + y


@app.task(name="theirs.fail")
def fail(text):
    raise ValueError(text)


@app.task(name="theirs.report", bind=True)
def report(self, *args, **kwargs):
    """Return what this worker sees of the call."""
    request = self.request
    return {
        "args": args,
        "kwargs": kwargs,
        "headers": request.headers,
        "id": request.id,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "retries": request.retries,
        "eta": request.eta,
        "expires": request.expires,
        "timelimit": request.timelimit,
        "priority": request.delivery_info.get("priority"),
        "group": request.group,
        "stamps": request.stamps,
        "at": time.time(),
    }


@app.task(name="theirs.calls_ours", bind=True)
def calls_ours(self, x):
    return app.send_task("ours.add", (x, 1)).id


def send(name, args=(), kwargs=None, **options):
    return app.send_task(name, tuple(args), kwargs or {}, **options).id


def send_kinds(name):
    return send(name, [datetime.now(UTC), Decimal("1.5"), uuid4()])


def send_linked(name, args, link=(), link_error=()):
    """`link` and `link_error` are steps, as of `send_chain`."""
    call = signature(name, args=tuple(args), app=app)
    for each in link:
        call.link(step(*each))
    for each in link_error:
        call.link_error(step(*each))
    return call.apply_async().id


def step(task, args, options=None, immutable=False):
    return signature(task, args=tuple(args), options=options or {}, immutable=immutable, app=app)


def send_chain(steps):
    """Send steps [task, arguments, options] as a chain; return the ids of all, the last first."""
    result = chain(*(step(*each) for each in steps)).apply_async()
    ids = []
    while result is not None:
        ids.append(result.id)
        result = result.parent
    return ids


def send_group(steps):
    """Send steps as a group; return their ids."""
    return [result.id for result in group(*(step(*each) for each in steps)).apply_async().results]


def send_stamped(steps, stamps):
    """Send steps as a chain whose calls have `stamps`; return the id of the last."""
    canvas = chain(*(step(*each) for each in steps))
    canvas.stamp(**stamps)
    return canvas.apply_async().id


def send_chord(steps, body):
    """Send steps as the header of a chord; return their ids."""
    return [result.id for result in chord([step(*each) for each in steps])(step(*body)).parent.results]


def get(task_id, timeout=15):
    return AsyncResult(task_id, app=app).get(timeout=timeout)


def state(task_id):
    return AsyncResult(task_id, app=app).state


def is_state(task_id, wanted):
    return state(task_id) == wanted


def children(task_id):
    return [child.id for child in AsyncResult(task_id, app=app).children]


def traceback(task_id):
    return AsyncResult(task_id, app=app).traceback


def store(task_id, result, state="SUCCESS"):
    """Store a result as a worker does; a failure is a ValueError with it."""
    if state == "FAILURE":
        app.backend.store_result(task_id, ValueError(result), state, traceback="the traceback")
    else:
        app.backend.store_result(task_id, result, state)


def due(schedules):
    """Return when each crontab is due first after a time: its fields, and that time."""
    found = []
    for fields, after in schedules:
        last = datetime.fromisoformat(after)
        schedule = crontab(**fields, nowfun=lambda last=last: last, app=app)
        found.append((last + schedule.remaining_estimate(last)).isoformat())
    return found


COMMANDS = {
    each.__name__: each
    for each in (
        send,
        send_kinds,
        send_linked,
        send_chain,
        send_group,
        send_stamped,
        send_chord,
        get,
        state,
        is_state,
        children,
        traceback,
        store,
        due,
    )
}


def main():
    for line in sys.stdin:
        name, args, kwargs = json.loads(line)
        try:
            answer = ["value", COMMANDS[name](*args, **kwargs)]
        except Exception as exc:  # whatever it is, the test is told
            answer = ["error", f"{type(exc).__module__}.{type(exc).__name__}", str(exc)]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
