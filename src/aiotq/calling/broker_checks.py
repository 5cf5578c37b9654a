"""What the broker of an app can't do is said at the call, before there is a connection."""

from __future__ import annotations

from ..backends.base import backend_class
from ..core.settings import Settings
from ..core.values import shown
from ..exceptions import InvalidOption


def check_queue(conf: Settings, name: str) -> None:
    """Raise `InvalidOption` if no queue of the broker can have this name."""
    found = backend_class(conf.broker_url)
    if found is not None and (problem := found.queue_problem(name)) is not None:
        raise InvalidOption(f"queue {shown(name)}: {problem}")


def check_shares(conf: Settings, task: str) -> None:
    """Raise `InvalidOption` if the broker does not have calls of a queue take turns by key."""
    found = backend_class(conf.broker_url)
    if found is not None and not found.has_shares:
        scheme = conf.broker_url.partition(":")[0]
        raise InvalidOption(
            f"{task}: fair_key needs a broker that keeps calls by their keys (redis, postgresql, sqlite, memory), and "
            f"{scheme} hands them out in the order they came: give each key a queue, or leave fair_key out"
        )
