"""Numbers in the words of findings."""

from __future__ import annotations


def waits(messages: int) -> str:
    """Return that so many messages wait, as a sentence goes on."""
    return f"{count(messages, 'message')} {'waits' if messages == 1 else 'wait'}"


def age(given: float | None) -> str:
    """Return a time that has passed, in its largest unit."""
    given = max(given or 0.0, 0.0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if given >= size:
            return f"{given / size:.0f} {unit}"
    return f"{given:.0f} s"


def seconds(given: float) -> str:
    """Return how long something took, which may be very short."""
    if given < 1.0:
        return f"{given * 1000:.3g} ms"
    return f"{given:.1f} s" if given < 60 else age(given)


def count(number: int, noun: str) -> str:
    """Return so many of something."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(part: float) -> str:
    """Return a part of 1."""
    return f"{part * 100:.1f} %" if part < 0.1 else f"{part * 100:.0f} %"
