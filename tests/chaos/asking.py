"""A client that calls tasks and waits for what comes of them, while servers fail."""

from __future__ import annotations

from typing import Final

from ..proxy import Proxy
from .harness import Chaos, Process

#: Seconds; what a caller here gives a publish, since it is not the deadline that is looked at.
PUBLISH_TIMEOUT: Final = 60.0


def asking(chaos: Chaos, url: str) -> Process:
    """Start a client that calls tasks and waits for their results, 20 at a time."""
    return chaos.program("ask", 20, broker_url=url, task_publish_timeout=PUBLISH_TIMEOUT)


async def all_is_answered(chaos: Chaos, client: Process, *others: str) -> set[str]:
    """End `client`: what it called was answered, that and `others` are done, nothing is left. Return all ids."""
    client.tell_to_go_on()
    assert await client.ended() == 0, client.said
    accepted = {fact.id for fact in chaos.seen("accepted")}
    assert {fact.id for fact in chaos.seen("answered")} == accepted
    accepted.update(others)
    assert dict(chaos.standing().ended) == dict.fromkeys(accepted, "SUCCESS")
    assert not chaos.standing().waiting
    chaos.nothing_is_lost(accepted)
    assert set(chaos.starts()) == accepted
    return accepted


def has_swallowed(proxy: Proxy, before: int) -> bool:
    return proxy.swallowed > before
