"""What is sent of an entry's occurrences and what is left out, whatever the clock does."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aiotq.beat import occurrences
from aiotq.beat.occurrences import (
    AT_ONCE,
    Decision,
    Misfire,
    Occurrence,
    Policy,
    Progress,
    decide,
    occurrence_id,
    policy,
    policy_from_dict,
    policy_to_dict,
)
from aiotq.beat.schedules import Schedule, crontab, interval, once
from aiotq.exceptions import ScheduleError

HOURLY = crontab(minute=0)
HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 18, 12, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-18T{text}").replace(tzinfo=UTC)


def times(decision: Decision) -> tuple[list[str], list[str]]:
    """What is sent, and what is left out with the reason."""
    return (
        [f"{each.due:%H:%M}" for each in decision.send],
        [f"{each.due:%H:%M} {each.reason}" for each in decision.skipped],
    )


def test_before_it_is_due_nothing_is_sent() -> None:
    decision = decide("report", HOURLY, Progress(NOON), at("12:59:59"))

    assert decision == Decision((), (), Progress(NOON), at("13:00"))


def test_what_is_due_is_sent_and_remembered() -> None:
    decision = decide("report", HOURLY, Progress(NOON, runs=3), at("13:00:01"))

    assert times(decision) == (["13:00"], [])
    assert decision.progress == Progress(at("13:00"), runs=4)
    assert decision.look == at("14:00")


@pytest.mark.parametrize(
    ("misfire", "sent", "skipped"),
    [
        ("once", ["16:00"], ["13:00 superseded", "14:00 superseded", "15:00 superseded"]),
        ("all", ["13:00", "14:00", "15:00", "16:00"], []),
        ("skip", [], ["13:00 missed", "14:00 missed", "15:00 missed", "16:00 missed"]),
        (2 * 3600, ["15:00", "16:00"], ["13:00 too late", "14:00 too late"]),
    ],
)
def test_the_policy_says_what_becomes_of_what_nobody_sent(
    misfire: Misfire, sent: list[str], skipped: list[str]
) -> None:
    decision = decide("report", HOURLY, Progress(NOON), at("16:30"), policy=policy(misfire=misfire))

    assert times(decision) == (sent, skipped)
    assert decision.progress == Progress(at("16:00"), len(sent))
    assert decision.look == at("17:00")


def test_what_another_scheduler_takes_over_is_not_missed() -> None:
    decision = decide("report", HOURLY, Progress(NOON), at("13:00:17"), policy=policy(misfire="skip"))

    assert times(decision) == (["13:00"], [])


def test_what_is_frequent_is_not_sent_in_a_heap_after_a_short_pause() -> None:
    every_second = interval(1)

    for misfire in ("skip", "once"):
        decision = decide("tick", every_second, Progress(NOON), at("12:00:05.5"), policy=policy(misfire=misfire))

        assert [each.due.second for each in decision.send] == [5]
        assert {each.reason for each in decision.skipped} == {"superseded"}


def test_very_many_that_were_missed_are_gone_through_by_and_by() -> None:
    """A minute's job that nobody scheduled for a month: no decision takes long, and one is sent at the end."""
    every_minute, now = crontab(), NOON + timedelta(days=30)
    progress, sent, skipped, decisions = Progress(NOON), 0, 0, 0
    look: datetime | None = NOON

    while look is not None and look <= now:
        decision = decide("tick", every_minute, progress, now)
        progress, look = decision.progress, decision.look
        sent, skipped, decisions = sent + len(decision.send), skipped + len(decision.skipped), decisions + 1
        assert len(decision.send) + len(decision.skipped) <= AT_ONCE

    assert (sent, skipped) == (1, 30 * 24 * 60 - 1)
    assert progress == Progress(now, 1)
    assert decisions == 30 * 24 * 60 // AT_ONCE + 1


# Start, end, number of runs


def test_nothing_is_due_before_the_start_and_what_is_due_at_it_is() -> None:
    bounded = policy(starts=at("15:00"))

    assert decide("report", HOURLY, Progress(NOON), at("14:30"), policy=bounded).look == at("15:00")
    assert times(decide("report", HOURLY, Progress(NOON), at("15:00"), policy=bounded)) == (["15:00"], [])


def test_an_interval_is_counted_from_the_start() -> None:
    decision = decide("report", interval(600), Progress(NOON), at("12:30"), policy=policy(starts=at("15:07")))

    assert decision.look == at("15:17")


def test_nothing_is_due_after_the_end_and_then_nobody_looks_again() -> None:
    bounded = policy(ends=at("14:00"), misfire="all")

    decision = decide("report", HOURLY, Progress(NOON), at("18:00"), policy=bounded)

    assert times(decision) == (["13:00", "14:00"], [])
    assert decision.look is None
    assert decision.send[-1].expires is None, "no other follows that it would have to make room for"


def test_after_so_many_runs_it_is_at_its_end() -> None:
    bounded = policy(max_runs=3, misfire="all")

    decision = decide("report", HOURLY, Progress(NOON, runs=1), at("18:00"), policy=bounded)

    assert times(decision) == (["13:00", "14:00"], [])
    assert decision.progress == Progress(at("14:00"), runs=3)
    assert decision.look is None
    assert decide("report", HOURLY, decision.progress, at("19:00"), policy=bounded).send == ()


def test_what_is_skipped_is_no_run() -> None:
    decision = decide("report", HOURLY, Progress(NOON), at("18:00"), policy=policy(max_runs=2, misfire="once"))

    assert decision.progress == Progress(at("18:00"), runs=1)
    assert decision.look == at("19:00")


def test_once_is_sent_once() -> None:
    decision = decide("launch", once(at("13:00")), Progress(NOON), at("13:00"))

    assert times(decision) == (["13:00"], [])
    assert decision.look is None
    assert decision.send[0].expires is None
    assert decide("launch", once(at("13:00")), decision.progress, at("15:00")) == Decision(
        (), (), decision.progress, None
    )


# When it may start, and until when


def only(decision: Decision) -> Occurrence:
    (sent,) = decision.send
    return sent


def test_by_default_it_expires_when_the_next_is_due() -> None:
    sent = only(decide("report", HOURLY, Progress(NOON), at("13:00:05")))

    assert (sent.start, sent.expires) == (at("13:00"), at("14:00"))


def test_what_is_caught_up_with_has_as_long_as_it_would_have_had() -> None:
    sent = decide("report", HOURLY, Progress(NOON), at("15:30"), policy=policy(misfire="all")).send

    assert [each.expires for each in sent] == [at("16:30"), at("16:30"), at("16:00")]


@pytest.mark.parametrize(
    ("given_as", "expires"), [(60, at("13:01:05")), (timedelta(minutes=1), at("13:01:05")), (None, None)]
)
def test_an_entry_may_say_how_long_it_waits_for_a_worker(given_as: Any, expires: datetime | None) -> None:
    sent = only(decide("report", HOURLY, Progress(NOON), at("13:00:05"), policy=policy(expires=given_as)))

    assert sent.expires == expires


@given(st.text(), st.datetimes(datetime(2000, 1, 1), timezones=st.just(UTC)), st.floats(0.001, 3000))
def test_jitter_is_always_the_same_for_an_occurrence(entry: str, now: datetime, jitter: float) -> None:
    assume(now < datetime(9990, 1, 1, tzinfo=UTC))
    spread = policy(jitter=jitter)

    first = only(decide(entry, HOURLY, Progress(now - HOUR), now, policy=spread))
    again = only(decide(entry, HOURLY, Progress(now - 2 * HOUR), now + timedelta(seconds=1), policy=spread))

    if first.due == again.due:
        assert first == again
    assert first.due <= first.start <= first.due + timedelta(seconds=jitter)
    assert first.expires == first.start + HOUR, "it has its time to start in all the same"


def test_jitter_spreads_entries() -> None:
    starts = {
        only(decide(f"entry {n}", HOURLY, Progress(NOON), at("13:00"), policy=policy(jitter=60))).start
        for n in range(100)
    }

    assert len(starts) == 100
    assert max(starts) - min(starts) > timedelta(seconds=45)


# One id an occurrence


@given(st.text(), st.text(), st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_an_occurrence_has_one_id_and_no_two_share_one(
    entry: str, other: str, due: datetime, another: datetime
) -> None:
    assert occurrence_id(entry, due) == occurrence_id(entry, due)
    assert (occurrence_id(entry, due) == occurrence_id(other, another)) == ((entry, due) == (other, another))


def test_ids_are_uuids_in_the_order_in_which_they_are_due() -> None:
    ids = [occurrence_id("report", NOON + number * HOUR) for number in range(100)]

    assert ids == sorted(ids)
    assert {uuid.UUID(each).version for each in ids} == {8}
    assert {str(uuid.UUID(each)) for each in ids} == {*ids}


def test_an_id_does_not_change_from_version_to_version() -> None:
    """Two versions of aiotq that schedule side by side, while one is rolled out, send each occurrence once."""
    assert occurrence_id("report", NOON) == "019d00d1-2600-82e6-abfb-4bc373b2885e"
    berlin = NOON.astimezone(ZoneInfo("Europe/Berlin"))
    assert occurrence_id("report", berlin) == occurrence_id("report", NOON)


# Clocks that jump


def test_while_the_clock_is_behind_nothing_is_sent_twice() -> None:
    progress = Progress(at("13:00"), runs=7)

    decision = decide("report", HOURLY, progress, at("12:10"))

    assert decision == Decision((), (), progress, at("14:00"))


def test_what_a_clock_a_year_ahead_has_handled_does_not_silence_the_entry() -> None:
    progress = Progress(NOON + timedelta(days=365), runs=7)

    decision = decide("report", HOURLY, progress, at("12:10"))

    assert decision == Decision((), (), Progress(at("12:10"), runs=7), at("13:00"))


schedules = st.sampled_from(
    [
        crontab(),
        crontab(minute="*/7"),
        crontab(minute=30, hour=2),
        crontab(minute="0,30", hour="1-3"),
        interval(45),
        interval(600, aligned=True),
        interval(3700),
    ]
)
policies: st.SearchStrategy[Policy] = st.builds(
    policy,
    misfire=st.sampled_from(["skip", "once", "all", 300.0]),
    jitter=st.sampled_from([0, 30]),
    max_runs=st.none() | st.integers(1, 30),
    expires=st.sampled_from(["next", None, 60]),
)
#: A clock: how far it goes from one look to the next, seconds; also back, by less than a day in all.
steps = st.lists(st.floats(-2000, 20000) | st.floats(0.1, 90), min_size=1, max_size=40)
DST: tuple[datetime, ...] = (datetime(2026, 3, 28, 20, tzinfo=UTC), datetime(2026, 10, 24, 20, tzinfo=UTC))


@settings(deadline=None)
@given(schedules, policies, st.sampled_from(DST), st.floats(0, 36000), steps)
def test_whatever_the_clock_does_each_occurrence_is_handled_once_and_in_order(
    schedule: Schedule, policy: Policy, begin: datetime, offset: float, steps: list[float]
) -> None:
    """Every due time up to the last is sent or left out, none twice, none that the schedule does not have."""
    berlin = ZoneInfo("Europe/Berlin")
    declared = now = begin + timedelta(seconds=offset)
    progress, handled, sent = Progress(declared), list[datetime](), list[datetime]()
    look: datetime | None = now

    for step in steps:
        now += timedelta(seconds=step)
        look = now
        while look is not None and look <= now:
            decision = decide("entry", schedule, progress, now, zone=berlin, policy=policy)
            dues = [each.due for each in decision.send] + [each.due for each in decision.skipped]
            assert all(due <= now for due in dues)
            assert decision.progress.last >= progress.last
            assert decision.progress.runs == progress.runs + len(decision.send)
            handled += sorted(dues)
            sent += [each.due for each in decision.send]
            progress, look = decision.progress, decision.look

    assert handled == all_dues(schedule, declared, progress.last, berlin)
    assert sent == sorted(set(sent))
    assert policy.max_runs is None or len(sent) <= policy.max_runs
    if policy.misfire == "all":
        assert sent == handled
    if look is not None:
        assert look == schedule.next(progress.last, berlin)


def all_dues(schedule: Schedule, after: datetime, until: datetime, zone: tzinfo) -> list[datetime]:
    found: list[datetime] = []
    due = schedule.next(after, zone)
    while due is not None and due <= until:
        found.append(due)
        due = schedule.next(due, zone)
    return found


@given(schedules, st.integers(1, 400), st.integers(0, 20))
def test_two_schedulers_that_decide_side_by_side_send_the_same_occurrences(
    schedule: Schedule, minutes: int, behind: int
) -> None:
    """What one sends, the other sends with the same id and start: whoever is second finds that it is there."""
    now = NOON + timedelta(minutes=minutes)

    ours = decide("entry", schedule, Progress(NOON), now, policy=policy(jitter=10, misfire="all")).send
    theirs = decide(
        "entry", schedule, Progress(NOON), now - timedelta(minutes=behind), policy=policy(jitter=10, misfire="all")
    ).send

    assert [(each.id, each.start) for each in ours][: len(theirs)] == [(each.id, each.start) for each in theirs]


# What can't be


class Broken:
    def next(self, after: datetime, zone: tzinfo) -> datetime | None:
        raise LookupError("no table")


class Backwards:
    def next(self, after: datetime, zone: tzinfo) -> datetime | None:
        return after - HOUR


@pytest.mark.parametrize("schedule", [Broken(), Backwards()])
def test_a_schedule_that_misbehaves_is_an_error_and_no_loop(schedule: Schedule) -> None:
    with pytest.raises(ScheduleError, match="schedule="):
        decide("entry", schedule, Progress(NOON), at("13:00"))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"misfire": "sometimes"}, "misfire"),
        ({"misfire": -1}, "misfire"),
        ({"misfire": None}, "misfire"),
        ({"jitter": -1}, "jitter"),
        ({"jitter": float("nan")}, "jitter"),
        ({"jitter": 10**400}, "jitter"),
        ({"jitter": "5"}, "jitter"),
        ({"starts": datetime(2026, 1, 1)}, "starts"),
        ({"starts": "2026-01-01"}, "starts"),
        ({"ends": 3}, "ends"),
        ({"starts": NOON, "ends": NOON - HOUR}, "ends"),
        ({"max_runs": 0}, "max_runs"),
        ({"max_runs": True}, "max_runs"),
        ({"max_runs": 2.5}, "max_runs"),
        ({"expires": 0}, "expires"),
        ({"expires": "soon"}, "expires"),
        ({"expires": []}, "expires"),
    ],
)
def test_a_policy_that_can_not_be_is_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        policy(**arguments)

    assert refused.value.field == field


@pytest.mark.parametrize(
    "given_as",
    [
        policy(),
        policy(misfire="all", jitter=5, starts=NOON, ends=NOON + HOUR, max_runs=7, expires=timedelta(minutes=5)),
        policy(misfire=timedelta(minutes=5), expires=None),
    ],
)
def test_a_policy_can_be_stored(given_as: Policy) -> None:
    assert policy_from_dict(policy_to_dict(given_as)) == given_as
    assert policy_to_dict(policy()) == {}


@pytest.mark.parametrize(
    "stored", [None, [], {"color": "red"}, {"starts": 3}, {"ends": "soon"}, {"starts": "2026-01-01"}, {"misfire": {}}]
)
def test_a_damaged_policy_is_an_error(stored: Any) -> None:
    with pytest.raises(ScheduleError):
        policy_from_dict(stored)


def test_a_decision_is_a_pure_function() -> None:
    arguments: dict[str, Any] = {"entry": "report", "schedule": HOURLY, "progress": Progress(NOON), "now": at("16:30")}
    decide_again: Callable[..., Decision] = occurrences.decide

    assert decide_again(**arguments) == decide_again(**arguments)
