"""What needs a look: rules that find it in a picture of the whole, each with what to do. Nothing here asks anybody.

A rule is a function of the picture and the thresholds. `aiotq doctor` prints what they find; whatever else shows the
state of things asks the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ..core.settings import Settings
from ..transport import ALL_DELAYED
from .fleet import FleetMember
from .picture import LEVELS, Finding, Level, Picture, Rule, Thresholds, thresholds_of
from .trends import TREND_RULES
from .words import age, count, waits


def examined(picture: Picture, thresholds: Thresholds | None = None) -> list[Finding]:
    """Return all that the rules find, what is worst first."""
    limits = thresholds if thresholds is not None else thresholds_of(picture.conf)
    found = [finding for rule in RULES for finding in rule(picture, limits)]
    return sorted(found, key=lambda each: LEVELS.index(each.level))


def server_settings(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """The server's own settings may lose what it accepted."""
    for text in picture.server:
        what, _semicolon, advice = text.partition("; ")
        yield Finding("server-settings", "warning", "broker", what, f"{advice or 'change that on the server'}.")


def no_workers(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """Nobody runs anything."""
    if not _present(picture):
        start = "start one: aiotq worker"
        yield Finding("no-workers", "error", "workers", "no worker is there", f"{start}.")


def missing_workers(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """A worker or scheduler is gone and did not say good-bye."""
    for each in picture.members:
        if each.is_missing:
            text = f"{each.kind} {each.name} went missing {age(each.missing_for)} ago ({each.host}, pid {each.pid})"
            advice = "see its log and the machine's: was it killed (memory), or is it cut off? Forgotten after an hour."
            yield Finding("missing-worker", "warning", each.name, text, advice)


def blocked_workers(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """A task blocks a worker's event loop."""
    for each in _present(picture):
        if each.blocked is not None:
            since = picture.now - (each.blocked_since or picture.now)
            text = f"the event loop of {each.name} has been blocked for {age(since)} by {each.blocked}"
            advice = f"see where: aiotq inspect stacks -d {each.name}; then await there, or use a thread or process."
            yield Finding("blocked-worker", "error", each.name, text, advice)


def silent_workers(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """A worker is in the registry, and does not answer."""
    for each in _present(picture):
        facts = picture.workers.get(each.key)
        if facts is not None and facts.clock is None and each.blocked is None:
            text = f"worker {each.name} is registered and does not answer"
            advice = (
                "was it killed? Then it is missing when its lease has ended. Has it the same security_key, and is its "
                "machine not overloaded? Its log tells of refused commands."
            )
            yield Finding("silent-worker", "warning", each.name, text, advice)


def paused_workers(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """A worker was told to take nothing."""
    for each in _present(picture):
        if each.is_paused:
            advice = f"when the reason is gone: aiotq control resume -d {each.name}."
            yield Finding("paused-worker", "note", each.name, f"worker {each.name} is paused", advice)


def versions(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """Processes run different versions of aiotq."""
    by_version: dict[str, list[str]] = {}
    for each in picture.members:
        if not each.is_missing:
            by_version.setdefault(each.version, []).append(each.name)
    if by_version and set(by_version) != {picture.version}:
        there_are = "; ".join(f"{version}: {', '.join(sorted(names))}" for version, names in sorted(by_version.items()))
        text = f"versions of aiotq differ: {picture.version} here; {there_are}"
        advice = "finish the deployment: all processes that share a broker are to have one version."
        yield Finding("versions-differ", "warning", "workers", text, advice)


def clocks(picture: Picture, limits: Thresholds) -> Iterator[Finding]:
    """Due times, expiry and signatures go by wall time."""
    advice = "set the clocks by NTP (chrony, systemd-timesyncd): due times and expiry go by them."
    if abs(picture.clock) > limits.clock:
        text = f"the clock of the store is {picture.clock:+.1f} s off the one here"
        yield Finding("clocks-differ", "warning", "store", text, advice)
    for each in _present(picture):
        facts = picture.workers.get(each.key)
        if facts is not None and facts.clock is not None and abs(facts.clock) > limits.clock:
            text = f"the clock of worker {each.name} ({each.host}) is {facts.clock:+.1f} s off the one here"
            yield Finding("clocks-differ", "warning", each.name, text, advice)


def unconsumed_queues(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """Calls wait, or would wait, where no worker takes them."""
    taken = {queue for each in _present(picture) for queue in each.queues}
    stats = {each.name: each for each in picture.queues}
    routed = {queue: task.name for task in reversed(picture.tasks) for queue in task.queues}
    if not _present(picture):
        return  # said once is enough
    for queue in sorted((stats.keys() | routed.keys()) - taken - {ALL_DELAYED}):
        waiting = stats[queue].ready + stats[queue].delayed if queue in stats else 0
        advice = f"start a worker for it (aiotq worker -Q {queue}), or route calls elsewhere."
        if waiting:
            text = f"queue {queue!r}: no worker takes from it, and {waits(waiting)}"
            yield Finding("queue-without-worker", "error", queue, text, advice)
        elif queue in routed:
            text = f"queue {queue!r}: no worker takes from it, and calls of {routed[queue]} go there"
            yield Finding("queue-without-worker", "warning", queue, text, advice)


def paused_queues(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """A queue is paused for all workers, and fills."""
    for each in picture.queues:
        if each.paused_since is not None:
            paused = age(picture.now - each.paused_since)
            text = f"queue {each.name!r} has been paused for {paused}, and {waits(each.ready)}"
            level: Level = "warning" if each.ready else "note"
            yield Finding("paused-queue", level, each.name, text, f"when the reason is gone: aiotq resume {each.name}.")


def slow_queues(picture: Picture, limits: Thresholds) -> Iterator[Finding]:
    """Calls come faster than workers take them."""
    taken = {queue for each in _present(picture) for queue in each.queues}
    for each in picture.queues:
        is_slow = each.oldest_age is not None and each.oldest_age > limits.oldest
        if is_slow and each.name in taken and each.paused_since is None:
            text = (
                f"queue {each.name!r}: the oldest of {count(each.ready, 'message')} has waited {age(each.oldest_age)}"
            )
            advice = "add workers or slots (aiotq control pool_grow), or see what holds them: aiotq inspect active."
            yield Finding("queue-falls-behind", "warning", each.name, text, advice)


def unknown_tasks(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """A task goes to workers that do not have it."""
    for task in picture.tasks:
        if task.problem is not None:
            advice = "see task_routes, task_queues and the task's own options."
            yield Finding("task-without-route", "error", task.name, f"calls of {task.name}: {task.problem}", advice)
            continue
        takers = [each for each in _present(picture) if not set(task.queues).isdisjoint(each.queues)]
        known = [facts.tasks for each in takers if (facts := picture.workers.get(each.key)) is not None]
        lacking = sum(names is not None and task.name not in names for names in known)
        if lacking:
            every = lacking == len(takers)
            who = "no worker that takes from" if every else f"{lacking} of {len(takers)} workers that take from"
            verb = "knows" if every else "do not know"
            text = f"{who} {', '.join(task.queues)} {verb} {task.name}"
            advice = "restart those with the code of today; the module must be in include, or be imported by the app's."
            yield Finding("task-without-worker", "error" if every else "warning", task.name, text, advice)


def new_dead_letters(picture: Picture, limits: Thresholds) -> Iterator[Finding]:
    """Messages were given up lately."""
    for each in picture.dead:
        text = (
            f"queue {each.queue!r}: {count(each.count, 'dead letter')} in the last {age(limits.dead)} "
            f"({', '.join(each.reasons)})"
        )
        advice = "read them: aiotq dead list, aiotq dead show KEY; when the cause is gone: aiotq dead replay KEY."
        yield Finding("dead-letters-grow", "warning", each.queue, text, advice)


def schedulers(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """Periodic tasks are there, and nobody sends them."""
    if (
        picture.has_fleet
        and picture.periodic
        and not any(each.kind == "scheduler" and not each.is_missing for each in picture.members)
    ):
        text = f"{count(picture.periodic, 'periodic task')} and no scheduler: nothing is sent"
        yield Finding("no-scheduler", "error", "beat", text, "start one: aiotq beat, or a worker with --beat.")


def settings(picture: Picture, limits: Thresholds) -> Iterator[Finding]:
    """Settings that contradict each other, or what a deployment needs."""
    conf = picture.conf
    for is_so, level, name, text, advice in _contradictions(conf, picture, limits):
        if is_so:
            yield Finding("settings", level, name, text, f"{advice}.")


def _contradictions(
    conf: Settings, picture: Picture, limits: Thresholds
) -> Iterator[tuple[bool, Level, str, str, str]]:
    url, backend = conf.broker_url, conf.result_backend
    can_run_code = sorted({"pickle", "application/x-python-serialize"}.intersection(conf.accept_content))
    threads = sorted(task.name for task in picture.tasks if task.runs_in == "thread")
    yield (
        *(url.startswith("memory://"), "error", "broker_url"),
        "memory:// is this process's own memory: calls of other processes never arrive",
        "give broker_url a sqlite://, redis:// or amqp:// URL, and keep memory:// for tests",
    )
    yield (
        *(conf.task_always_eager, "error", "task_always_eager"),
        "task_always_eager is on: calls run where they are made, and no worker gets any",
        "turn it off outside of tests",
    )
    yield (
        *(bool(can_run_code) and conf.security_key is None, "warning", "accept_content"),
        f"accept_content has {', '.join(can_run_code)} and nothing is signed: whoever reaches the broker runs code",
        "set security_key, or take it out of accept_content",
    )
    yield (
        *(backend == "rpc://" and picture.periodic > 0, "warning", "result_backend"),
        "rpc:// and periodic tasks: no store is shared, so a second scheduler sends everything again",
        "set result_backend to a redis:// or sqlite:// URL",
    )
    yield (
        *(conf.task_time_limit is not None and bool(threads), "warning", "task_time_limit"),
        f"task_time_limit does not hold for tasks that run in threads: {', '.join(threads[:5])}",
        'make them coroutines, run="process", or use soft time limits',
    )
    yield (
        *(conf.worker_lease < limits.lease, "warning", "worker_lease"),
        f"worker_lease is {conf.worker_lease:g} s: a machine that is busy for a moment loses its tasks to others",
        f"give it {limits.lease:g} s or more (the default is 15)",
    )
    yield (
        *(conf.task_time_limit is not None and conf.task_time_limit > conf.worker_grace, "note", "worker_grace"),
        f"tasks may run for {conf.task_time_limit} s, and a worker that stops gives them {conf.worker_grace:g} s: "
        "longer ones are handed back and run again",
        "raise worker_grace (and what the process manager waits), if that matters",
    )
    yield (
        *(conf.result_expires < conf.join_timeout and conf.result_expires < 3600, "note", "result_expires"),
        f"results are kept for {conf.result_expires:g} s: who asks later finds none",
        "raise result_expires, if somebody asks that late",
    )


RULES: Final[tuple[Rule, ...]] = (
    *(server_settings, settings, no_workers, missing_workers, blocked_workers, silent_workers, paused_workers),
    *(versions, clocks, unconsumed_queues, paused_queues, slow_queues, unknown_tasks, new_dead_letters, schedulers),
    *TREND_RULES,
)


def _present(picture: Picture) -> Sequence[FleetMember]:
    return [each for each in picture.members if each.kind == "worker" and not each.is_missing]
