"""The ladder of delays: whatever the delay, the queues on its way add up to it, and they are always the same few."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from aiotq.backends.amqp.delays import (
    FINEST,
    LONGEST_DELAY,
    MARGIN,
    WIDTHS,
    highest_digit,
    ladder_delay,
    ladder_key,
    ladder_pattern,
    ladder_queues,
)
from aiotq.backends.amqp.messages import outgoing
from aiotq.wire.message import Message

STEP = 2**FINEST
delays = st.integers(0, 32).flatmap(lambda shift: st.integers(0, 2**shift - 1))


def matches(pattern: str, key: str) -> bool:
    """Whether a topic exchange takes `key` for `pattern`."""
    return re.fullmatch(pattern.replace(".", r"\.").replace("*", "[^.]+"), key) is not None


def walked(delay: int) -> list[int]:
    """Return how long each queue on the way of `delay` keeps it, as the exchanges of the ladder decide."""
    key = ladder_key(delay)
    waits: list[int] = []
    for digit in reversed(range(highest_digit(delay) + 1)):
        ways = [kept for pattern, kept in ladder_queues(digit).values() if matches(pattern, key)]
        ways += [0] * matches(ladder_pattern(digit, 0), key)
        (wait,) = ways  # one way, or it would be lost, or be there twice
        waits.append(wait)
    return waits


@given(delays)
@example(MARGIN + STEP)
@example(LONGEST_DELAY)
def test_the_queues_on_the_way_add_up_and_leave_the_worker_a_moment(milliseconds: int) -> None:
    delay = ladder_delay(milliseconds)

    if delay:
        assert sum(walked(delay)) == delay
        assert MARGIN <= milliseconds - delay < MARGIN + STEP
    else:
        assert milliseconds < MARGIN + STEP


def test_what_is_due_in_centuries_has_the_longest_delay() -> None:
    assert ladder_delay(10 * LONGEST_DELAY) == ladder_delay(LONGEST_DELAY)


def test_each_value_of_each_digit_has_one_queue_and_no_two_keep_for_as_long() -> None:
    queues = {name: kept for digit in range(len(WIDTHS)) for name, (_, kept) in ladder_queues(digit).items()}

    assert len(queues) == len(set(queues.values())) == sum(2**width - 1 for width in WIDTHS)
    assert min(queues.values()) == STEP
    assert max(queues.values()) <= LONGEST_DELAY


def test_a_delay_counts_from_when_it_is_published_not_from_when_it_was_asked_for() -> None:
    message = outgoing(Message("1", "x", b"[[],{},{}]"), "q", 4, due=1000.0, now=900.0)

    assert message.post(1, 900.0).routing_key == ladder_key(ladder_delay(100_000))
    assert message.post(1, 950.0).routing_key == ladder_key(ladder_delay(50_000))
    assert (message.post(1, 1001.0).exchange, message.post(1, 1001.0).routing_key) == ("", "q")
