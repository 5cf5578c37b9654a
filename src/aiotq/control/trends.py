"""Rules of what needs a look that compare the last minutes with the time before: failures, waits, slow runs.

`findings` asks them with its own; a rule is a function of the picture and the thresholds here as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from .. import states
from .picture import Finding, Picture, Rule, RunningFacts, Thresholds
from .recent import Figures, TaskFigures, total_of
from .words import age, count, percent, seconds

#: Errors that are named, the most frequent ones.
_ERRORS_NAMED: Final = 2


def failing_tasks(picture: Picture, limits: Thresholds) -> Iterator[Finding]:
    """A task fails more than it used to."""
    for each in picture.recent.by_task():
        lately, before = each.lately, each.before
        if lately.count < limits.failing_runs or lately.failing < max(limits.failing, 1e-9):
            continue
        if before.count and lately.failing < limits.failing_times * before.failing:
            continue
        was = f", {percent(before.failing)} before that" if before.count else ""
        text = f"{each.task} fails {percent(lately.failing)} of its runs in the last ten minutes{was}{_errors(lately)}"
        advice = f"see them: aiotq find --state FAILURE --name {each.task}; its tracebacks: aiotq result ID."
        yield Finding("task-fails-more", "warning", each.task, text, advice)


def growing_waits(picture: Picture, limits: Thresholds) -> Iterator[Finding]:
    """Calls wait longer and longer, though not yet for so long that `findings.slow_queues` says so."""
    by_queue: dict[str, list[TaskFigures]] = {}
    for each in picture.recent.tasks:
        by_queue.setdefault(each.queue, []).append(each)
    for stats in picture.queues:
        if stats.paused_since is not None or stats.oldest_age is None:
            continue
        if not limits.behind < stats.oldest_age <= limits.oldest:
            continue
        ended = by_queue.get(stats.name, [])
        now = total_of(each.lately for each in ended).waited(0.5)
        before = total_of(each.before for each in ended).waited(0.5)
        if now is None or before is None or now < limits.growing * before:
            continue
        text = (
            f"queue {stats.name!r}: the oldest of {count(stats.ready, 'message')} has waited {age(stats.oldest_age)}; "
            f"half of the calls waited {seconds(now)} lately, {seconds(before)} before"
        )
        advice = "add workers or slots (aiotq control pool_grow), or see what holds them: aiotq inspect active."
        yield Finding("queue-falls-behind", "warning", stats.name, text, advice)


def slow_runs(picture: Picture, limits: Thresholds) -> Iterator[Finding]:
    """Something runs far beyond what is usual for its task."""
    usual: Mapping[str, Figures] = {each.task: each.hour for each in picture.recent.by_task()}
    slow: dict[str, list[RunningFacts]] = {}
    for each in picture.running:
        figures = usual.get(each.task)
        if figures is None or figures.count < limits.failing_runs or (most := figures.ran(0.95)) is None:
            continue
        if each.seconds > max(limits.slow, limits.slow_times * most):
            slow.setdefault(each.task, []).append(each)
    for task, runs in slow.items():
        longest = max(runs, key=lambda each: each.seconds)
        others = f" (and {count(len(runs) - 1, 'other')})" if len(runs) > 1 else ""
        text = (
            f"{task}[{longest.id}]{others} has run for {age(longest.seconds)} on {longest.worker}; "
            f"95 of 100 take {seconds(usual[task].ran(0.95) or 0.0)} at most"
        )
        advice = f"see where it stands: aiotq inspect stacks -d {longest.worker}; end it: aiotq revoke --terminate ID."
        yield Finding("run-is-slow", "warning", task, text, advice)


def failed_schedules(picture: Picture, _: Thresholds) -> Iterator[Finding]:
    """The last run of a periodic task failed."""
    for each in picture.schedules:
        if each.last_state in (states.FAILURE, states.REVOKED):
            verb = "failed" if each.last_state == states.FAILURE else "was revoked"
            text = f"periodic task {each.name}: its last run {verb}"
            advice = f"see why: aiotq result {each.last_id}; run it again: aiotq schedule fire {each.name}."
            yield Finding("schedule-failed", "warning", each.name, text, advice)


TREND_RULES: Final[tuple[Rule, ...]] = (failing_tasks, growing_waits, slow_runs, failed_schedules)


def _errors(figures: Figures) -> str:
    named = sorted(figures.errors.items(), key=lambda each: -each[1])[:_ERRORS_NAMED]
    return f" ({', '.join(f'{number} times {name}' for name, number in named)})" if named else ""
