"""Parts of a batch that are refused for good are told apart from the others, which go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ..exceptions import Refused
from ..wire.message import Envelope

Item = TypeVar("Item")
Answer = TypeVar("Answer")


async def apart(
    items: Sequence[Item], attempt: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]
) -> list[Answer | Refused]:
    """Return what `attempt` answers for each of `items`, or why it refuses that one.

    All of them are tried together. If they are refused, each half is tried, and so on: one culprit among 500 costs 18
    attempts. Any other error ends it; what was done by then stays done.
    """
    answers: list[Answer | Refused] = []
    parts = deque([items] if items else ())
    while parts:
        part = parts.popleft()
        try:
            answers += await attempt(part)
        except Refused as exc:
            if len(part) == 1:
                answers.append(exc)
            else:
                middle = len(part) // 2
                parts.extendleft((part[middle:], part[:middle]))
    return answers


async def send_apart(
    send: Callable[[Sequence[Envelope]], Awaitable[None]], batch: Sequence[Envelope]
) -> dict[tuple[str, int], Refused]:
    """Send what of `batch` is not refused; return why the others are, by the keys of their messages.

    Raises:
        OperationalError: as `send`; some may have been sent.
    """

    async def attempt(part: Sequence[Envelope]) -> Sequence[Refused | None]:
        try:
            await send(part)
        except Refused as exc:
            if not exc.keys:
                raise
            return [exc if envelope.message.key in exc.keys else None for envelope in part]
        return [None] * len(part)

    answers = await apart(batch, attempt)
    return {
        envelope.message.key: answer
        for envelope, answer in zip(batch, answers, strict=True)
        if isinstance(answer, Refused)
    }
