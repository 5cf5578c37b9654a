"""Our crontabs are due when the real Celery's are, away from changes of clocks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiotq import crontab

from .celery_process import CeleryClient

#: What each field may be given as, in what both understand; most are often `*`.
FIELDS: dict[str, list[Any]] = {
    "minute": ["*", 0, 30, "*/15", "*/2,10-12/3", "1,13,30-45,50-59/2", [5, 50], "0, 30", "55-5", "59-2/3"],
    "hour": ["*", 0, 7, "*/3", "0,8-17/2", "22-2", "23-4/2", [6, 18], "8-18"],
    "day_of_week": ["*", "*", "*", 0, "mon-fri", "mon,thu", "fri-mon", "Sunday", "*/2", [1, 6], "sat-sun"],
    "day_of_month": ["*", "*", "*", 1, 31, "2-30/2", "1-7,15-21", "*/7", "28-2", [13, 29, 30]],
    "month_of_year": ["*", "*", "*", 2, "jan-mar", "*/3", "nov-feb", "2-12/2", "february", [4, 6, 9, 12]],
}
SPECS = 2000


@pytest.fixture
def celery_alone() -> Iterator[CeleryClient]:
    """Celery without a broker: all that is asked of it is arithmetic."""
    with CeleryClient("memory://", "cache+memory://") as client:
        yield client


async def test_a_crontab_is_due_when_celerys_is(celery_alone: CeleryClient) -> None:
    chance = random.Random(20261130)
    begin = datetime(2000, 1, 1, tzinfo=UTC)
    asked: list[tuple[dict[str, Any], datetime]] = []
    while len(asked) < SPECS:
        fields = {name: chance.choice(given) for name, given in FIELDS.items()}
        try:
            crontab(**fields)
        except ValueError:  # such as 31 February; Celery refuses it as well
            continue
        asked.append((fields, begin + timedelta(seconds=chance.uniform(0, 50 * 365 * 86400))))

    theirs = await celery_alone.ask("due", [(fields, after.isoformat()) for fields, after in asked])

    for (fields, after), due in zip(asked, theirs, strict=True):
        assert crontab(**fields).next(after) == datetime.fromisoformat(due), (fields, after)
