"""How many slots a worker is to have, by what is taken of them."""

from __future__ import annotations

import pytest

from aiotq.core.bounds import Bounds
from aiotq.worker.autoscale import scaled

BOUNDS = Bounds(2, 10)


@pytest.mark.parametrize(
    ("capacity", "taken", "most_taken", "wanted"),
    [
        (4, 4, None, 8),
        (8, 8, None, 10),
        (10, 10, 10, 10),
        (4, 3, None, 4),
        (8, 0, None, 8),
        (8, 0, 4, 4),
        (8, 0, 5, 8),
        (8, 0, 0, 4),
        (2, 0, 0, 2),
        (1, 0, None, 2),
        (50, 0, None, 10),
    ],
)
def test_slots_double_when_all_are_taken_and_halve_when_few_were_for_long(
    capacity: int, taken: int, most_taken: int | None, wanted: int
) -> None:
    assert scaled(capacity, taken, BOUNDS, most_taken=most_taken) == wanted
