"""How many worker processes there are to be, by what they tell of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from aiotq.commands.scaling import load_of
from aiotq.core.bounds import KEPT, Bounds
from aiotq.supervising.line import Load
from aiotq.supervising.scale import SETTLED, Scale

BEHIND, BUSY, QUIET = Load.BEHIND, Load.BUSY, Load.QUIET


def test_one_more_comes_while_calls_wait_and_the_last_one_has_shown_what_it_changes() -> None:
    scale = Scale(Bounds(1, 3))

    assert scale.look(0.0, [BUSY]) == 1
    assert scale.look(1.0, [BEHIND]) == 2
    assert scale.look(2.0, [BEHIND, None]) == 2
    assert scale.look(1.0 + SETTLED, [BEHIND, None]) == 2
    assert scale.look(2.0 + SETTLED, [BEHIND, QUIET]) == 3
    assert scale.look(100.0, [BEHIND, BEHIND, BEHIND]) == 3


def test_one_goes_when_all_were_quiet_for_long_and_another_one_not_before_that_again() -> None:
    scale = Scale(Bounds(1, 3))

    assert scale.look(0.0, [BUSY, QUIET, QUIET]) == 3
    assert scale.look(1.0, [QUIET, QUIET, QUIET]) == 3
    assert scale.look(KEPT - 1, [QUIET, QUIET, QUIET]) == 3
    assert scale.look(KEPT, [QUIET, QUIET, QUIET]) == 2
    assert scale.look(KEPT + 1, [QUIET, QUIET]) == 2
    assert scale.look(2 * KEPT, [QUIET, QUIET]) == 1
    assert scale.look(9 * KEPT, [QUIET]) == 1


def test_there_are_never_fewer_or_more_than_there_may_be() -> None:
    scale = Scale(Bounds(2, 3))

    assert scale.look(0.0, [BUSY]) == 2
    assert scale.look(1.0, [BUSY] * 5) == 3


@pytest.mark.parametrize(
    ("waiting", "slots", "handed_back", "load"),
    [
        ([(0, None)], {"loop": (0, 100), "thread": (0, 8)}, False, QUIET),
        ([(0, None)], {"loop": (50, 100)}, True, QUIET),
        ([(0, None)], {"loop": (0, 100), "process": (2, 2)}, False, BUSY),
        ([(0, None)], {"loop": (0, 100), "process": (2, 2)}, True, BEHIND),
        ([(3, 0.2)], {"loop": (0, 100)}, False, BUSY),
        ([(0, None), (3, 1.5)], {"loop": (0, 100)}, False, BEHIND),
        ([(1, None)], {"loop": (0, 100)}, False, BEHIND),
    ],
)
def test_a_worker_is_behind_if_a_call_waits_for_long_and_quiet_if_few_slots_are_taken(
    waiting: Sequence[tuple[int, float | None]], slots: Mapping[str, tuple[int, int]], handed_back: bool, load: Load
) -> None:
    assert load_of(waiting, slots, handed_back=handed_back) is load
