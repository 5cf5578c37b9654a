"""How often, and after which pauses, a call is sent again that the broker did not answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ..core.values import value
from ..exceptions import InvalidOption

#: Seconds before a group of calls is sent again, at first and at most.
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5


@value
class RetryPolicy:
    """How often a call is sent again that the broker did not answer, and after how many seconds.

    `max_retries` None: as long as its deadline allows. With `retry_errors` only after errors that are, or come from,
    one of these.

    Source: Celery, "Calling Tasks" (Message Sending Retry).
    """

    max_retries: int | None = 3
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 0.2
    retry_errors: tuple[type[BaseException], ...] | None = None

    def pause(self, retries: int, error: BaseException) -> float | None:
        """Return the seconds before the next attempt; None if there is none."""
        if self.max_retries is not None and retries >= self.max_retries:
            return None
        if self.retry_errors is not None and not _comes_from(error, self.retry_errors):
            return None
        return min(self.interval_start + self.interval_step * retries, self.interval_max)


#: One attempt.
ONCE: Final = RetryPolicy(0)
#: As many as the deadline allows.
UNTIL_DEADLINE: Final = RetryPolicy(None, FIRST_PAUSE, 0.05, LONGEST_PAUSE)


def persistence_of(retry: bool, policy: Mapping[str, Any] | None) -> RetryPolicy | None:
    """Return what `retry` and `retry_policy` come to; None: as long as the deadline allows, in growing steps."""
    if not retry:
        return ONCE
    if not policy:
        return None
    errors = policy.get("retry_errors")
    fields: dict[str, Any] = {**policy, "retry_errors": None if errors is None else tuple(errors)}
    return RetryPolicy(**fields)


def persistence_of_calls(
    calls: Iterable[Mapping[str, Any]], retry: bool, policy: Mapping[str, Any] | None
) -> RetryPolicy | None:
    """Return what the options of calls that are sent together say; `retry` and `policy` are the settings'.

    Raises:
        InvalidOption: they say different things.
    """
    found: list[RetryPolicy | None] = []
    for options in calls:
        said: RetryPolicy | None = None
        if "retry" in options or "retry_policy" in options:
            own = {**(policy or {}), **options.get("retry_policy", {})}
            said = persistence_of(options.get("retry", retry), own) or UNTIL_DEADLINE
        if said not in found:
            found.append(said)
    if len(found) > 1:
        raise InvalidOption("calls that are sent together have one `retry` and one `retry_policy`: send them apart")
    return found[0] if found else None


def _comes_from(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__
    return False
