"""What a worker can't be made with is refused when it is made, with the option's name."""

from __future__ import annotations

from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.exceptions import InvalidOption


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"queues": "hi"}, r"queues are a list of names: \['hi'\], not 'hi'"),
        ({"queues": []}, "needs at least one queue"),
        ({"queues": [""]}, "a queue's name has 1 to 255 characters"),
        ({"queues": ["default", "x" * 256]}, "a queue's name has 1 to 255 characters"),
        ({"concurrency": 0}, "concurrency must be 1 or more, not 0"),
        ({"threads": 0}, "threads must be 1 or more, not 0"),
        ({"threads": -1}, "threads must be 1 or more, not -1"),
        ({"processes": 0}, "processes must be 1 or more, not 0"),
        ({"prefetch": -1}, "prefetch must be 0 or more, not -1"),
        ({"grace": -1}, "grace must be 0 or more, not -1"),
        ({"grace": float("nan")}, "grace must be 0 or more, not nan"),
        ({"autoscale": (1, 2)}, r"autoscale is \(most, least\), two numbers from 1 to 1000000, not \(1, 2\)"),
        ({"autoscale": 3}, "autoscale is"),
        ({"autoscale": (3, 0)}, "autoscale is"),
        ({"autoscale": (3, 1), "concurrency": 2}, "fixed concurrency or is autoscaled, not both"),
    ],
)
def test_an_impossible_option_is_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidOption, match=error):
        AioTQ("proj", broker="memory://").worker(**options)


def test_the_least_that_is_possible_is_taken() -> None:
    worker = AioTQ("proj", broker="memory://").worker(
        ["a", "b"], concurrency=1, threads=1, processes=1, prefetch=0, grace=0
    )

    assert worker.queues == ("a", "b")
