"""The overview: is anything wrong, and where to look; charts are the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from starlette.responses import Response

from ...control.picture import Finding
from ...control.recent import Figures, Minute
from ...core.values import value
from . import charts
from .desk import Desk
from .visits import Visit
from .words import clock, counted, duration, sentence

#: What can be shown: minutes by the words for them.
SPANS: Final[Mapping[str, int]] = {"15m": 15, "1h": 60}
_NEEDS_SHOWN: Final = 3
_ROWS: Final = 7
_TASKS: Final = 5
_ONE_BY_ONE: Final = {1: "One thing needs", 2: "Two things need", 3: "Three things need", 4: "Four things need"}


@value
class Need:
    """Something that needs a look, with a way on."""

    text: str
    advice: str
    icon: str
    css: str
    word: str
    to: str


@value
class TimesChart:
    """How long something took, minute by minute."""

    title: str
    p50: str
    p95: str
    lines: Sequence[str]
    halves: Sequence[str]
    bands: Sequence[str]
    labels: Sequence[str]
    width: int
    said: str


async def page(desk: Desk, visit: Visit) -> Response:
    """Return the overview."""
    span = visit.query.get("for", "1h")
    minutes = SPANS.get(span, 60)
    look = await desk.watch.look()
    view = look.overview
    if view is None:
        return await desk.page(visit, "overview.html", "overview", live="overview", view=None)
    shown = view.recent.minutes[-minutes:]
    figures = view.recent.last(minutes)
    workers = [each for each in view.workers if each.kind == "worker"]
    return await desk.page(
        visit,
        "overview.html",
        "overview",
        live="overview",
        view=view,
        span=span if span in SPANS else "1h",
        minutes=minutes,
        needs=needs_of(visit, view.findings, all_of_them=bool(visit.query.get("all"))),
        needs_total=len(view.findings),
        needs_title=_title(len(view.findings)),
        slots=[
            sum(slot[at] for each in workers if not each.is_missing for slot in each.slots.values()) for at in (0, 1)
        ],
        workers=sorted(workers, key=lambda each: (each.is_missing, each.name))[:_ROWS],
        workers_total=len(workers),
        workers_there=sum(not each.is_missing for each in workers),
        queues=sorted(view.queues, key=lambda each: each.stats.ready, reverse=True)[:_ROWS],
        oldest=max(view.queues, key=lambda each: each.stats.oldest_age or 0.0, default=None),
        figures=figures,
        failed_before=_before(view.recent.minutes, minutes),
        throughput=charts.throughput([_column(each) for each in shown]),
        times=[
            _times("Wait before the start", shown, figures, Figures.waited),
            _times("Run", shown, figures, Figures.ran),
        ],
        ticks=_ticks(shown),
        minutes_shown=shown,
        failing=view.failing[:_TASKS],
        slowest=view.slowest[:_TASKS],
    )


def needs_of(visit: Visit, findings: Sequence[Finding], *, all_of_them: bool) -> list[Need]:
    """Return what needs a look, the worst first: three at most, unless all are asked for."""
    return [_need(visit, each) for each in (findings if all_of_them else findings[:_NEEDS_SHOWN])]


def _need(visit: Visit, finding: Finding) -> Need:
    ways: Mapping[str, tuple[str, str]] = {
        "task-fails-more": ("See the failures", visit.url("tasks", state="FAILURE", task=finding.about)),
        "run-is-slow": ("See what runs", visit.url("workers") + "#now"),
        "schedule-failed": ("See the schedules", visit.url("schedules")),
        "no-scheduler": ("See the schedules", visit.url("schedules")),
        "dead-letters-grow": ("See the letters", visit.url("dead", queue=finding.about)),
        "queue-falls-behind": ("See the queues", visit.url("queues")),
        "queue-without-worker": ("See the queues", visit.url("queues")),
        "paused-queue": ("See the queues", visit.url("queues")),
        "missing-worker": ("See the workers", visit.url("workers")),
        "blocked-worker": ("See where", visit.url("workers", worker=finding.about, ask="stacks") + "#stacks"),
        "silent-worker": ("See the workers", visit.url("workers")),
        "paused-worker": ("See the workers", visit.url("workers")),
        "versions-differ": ("See the workers", visit.url("workers")),
        "no-workers": ("See the workers", visit.url("workers")),
    }
    word, to = ways.get(finding.rule, ("", ""))
    icon, css = {"error": ("bad", "bad"), "warning": ("warn", "warn")}.get(finding.level, ("plan", "soft"))
    return Need(sentence(finding.text), sentence(finding.advice), icon, css, word, to)


def _title(count: int) -> str:
    if not count:
        return "Nothing needs a look"
    return f"{_ONE_BY_ONE.get(count, f'{count} things need')} a look"


def _column(minute: Minute) -> tuple[str, int, int, int]:
    each = minute.figures
    title = f"{clock(minute.at)}: {each.succeeded:,} succeeded, {each.retried:,} retried, {each.failed:,} failed"
    return title, each.succeeded, each.failed, each.retried


def _before(minutes: Sequence[Minute], shown: int) -> float | None:
    """Return how many calls failed a minute before what is shown; None if that is not known."""
    earlier = minutes[:-shown]
    return sum(each.figures.failed for each in earlier) / len(earlier) if earlier else None


def _times(
    title: str, shown: Sequence[Minute], figures: Figures, part: Callable[[Figures, float], float | None]
) -> TimesChart:
    halves, most = ([part(each.figures, at) for each in shown] for at in (0.5, 0.95))
    top = charts.axis(max((each for each in most if each is not None), default=0.0), 2)
    p50, p95 = duration(part(figures, 0.5)), duration(part(figures, 0.95))
    return TimesChart(
        title,
        p50,
        p95,
        charts.lines(most, top.top),
        charts.lines(halves, top.top),
        charts.bands(halves, most, top.top),
        [duration(each) if each else "0" for each in top.labels],
        max(len(shown) - 1, 1),
        f"{title}, in the last {counted(len(shown), 'minute')}: half took {p50} at most, 95 of 100 took {p95} at most",
    )


def _ticks(shown: Sequence[Minute]) -> list[str]:
    """Return the times under a chart."""
    if not shown:
        return []
    places = [round(at * (len(shown) - 1) / 4) for at in range(5)]
    return [clock(shown[each].at) for each in places]
