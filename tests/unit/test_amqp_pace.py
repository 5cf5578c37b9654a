"""How many messages a RabbitMQ pushes beside those that a worker has room for: as many as it starts in a moment."""

from __future__ import annotations

from aiotq.backends.amqp.prefetched import Pace


def test_what_ends_at_once_is_pushed_ahead_in_steps_and_up_to_a_limit() -> None:
    pace, now = Pace(), 100.0
    asked: list[int] = []
    for rate in (500, 2_000, 10_000, 1_000_000):  # a second
        for _ in range(20):
            now += 0.01
            pace.took(rate // 100, now)
        asked.append(pace.ahead(now))

    assert asked == [0, 128, 512, 1024]


def test_nothing_is_pushed_ahead_of_who_starts_little_or_has_stopped() -> None:
    pace = Pace()
    assert pace.ahead(100.0) == 0
    for step in range(10):
        pace.took(100, 100 + step / 100)
    assert pace.ahead(100.1) > 0
    assert pace.ahead(100.3) == 0
    pace.took(3, 100.3)
    assert pace.ahead(100.3) == 0
