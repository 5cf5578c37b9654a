"""The ladder of delays as arithmetic (P4): digits of a delay, the queues that wait for them, names and routing keys.

A delay is written in digits of several bits; for each digit, and each value that it may have, there is a queue whose
messages wait for so long. A message passes one queue for each of its digits that is not zero, the highest first. So
there are as many queues as digits have values, whatever delays there are, and few hops: on quorum queues each is three
writes to the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Final

#: The bits below the lowest digit. Up to 127 ms are waited for by whoever gets the message, which saves every message a
#: hop, or the ladder seven times as many queues.
FINEST: Final = 7
#: Milliseconds by which the ladder lets go too early, so that what the hops of a busy server take makes nobody late.
MARGIN: Final = 128
#: How many bits each digit has, the lowest first: few hops for seconds and minutes, few queues for days.
WIDTHS: Final = (3, 5, 5, 4, 4, 4)
#: The lowest bit of each digit.
_SHIFTS: Final = tuple(accumulate(WIDTHS[:-1], initial=FINEST))
#: RabbitMQ keeps no message for longer than 2**32 - 1 ms. What is due later goes round again.
LONGEST_DELAY: Final = (1 << FINEST + sum(WIDTHS)) - 1


def ladder_delay(milliseconds: int) -> int:
    """Return how much of a delay is spent on the ladder; the rest is waited for by the worker."""
    return max(min(milliseconds, LONGEST_DELAY) - MARGIN, 0) >> FINEST << FINEST


def highest_digit(delay: int) -> int:
    """Return at which digit a delay on the ladder begins; `delay` is not 0."""
    return max(digit for digit, shift in enumerate(_SHIFTS) if delay >> shift)


def ladder_exchange(digit: int) -> str:
    """The exchange by which one enters the ladder at `digit`, or below it if that is zero."""
    return f"aiotq.delay.digit.{digit}"


def ladder_mark(digit: int) -> str:
    """The exchange that says: what is needed for this digit and all below is there."""
    return f"{ladder_exchange(digit)}.ready"


def ladder_queues(digit: int) -> Mapping[str, tuple[str, int]]:
    """Return the queues of a digit: by their names the routing keys that lead there, and for how long they keep."""
    shift, width = _SHIFTS[digit], WIDTHS[digit]
    return {
        f"aiotq.delay.{value << shift}ms": (ladder_pattern(digit, value), value << shift)
        for value in range(1, 1 << width)
    }


def ladder_path(delay: int) -> Mapping[str, int]:
    """Return the queues that a delay's message passes, the last first, each with its digit."""
    return {
        f"aiotq.delay.{part}ms": digit
        for digit, (shift, width) in enumerate(zip(_SHIFTS, WIDTHS, strict=True))
        if (part := delay & ((1 << width) - 1) << shift)
    }


def ladder_key(delay: int) -> str:
    """Return the routing key of a delay: its digits, the highest first."""
    return ".".join(
        str(delay >> shift & (1 << width) - 1) for shift, width in zip(_SHIFTS[::-1], WIDTHS[::-1], strict=True)
    )


def ladder_pattern(digit: int, value: int) -> str:
    """Return what the routing keys of delays with this digit are like."""
    return ".".join(str(value) if each == digit else "*" for each in reversed(range(len(WIDTHS))))
