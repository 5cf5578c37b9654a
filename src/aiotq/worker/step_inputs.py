"""Steps of workflows before they run: what they are called with, or why they are not, or not yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from .. import states
from ..canvas.coordinator import describe
from ..canvas.join_result import JoinResult, gather
from ..canvas.links import Broken, Links
from ..canvas.outcome import Failure, Outcome, Policy, Postponed, Returned, Revoked, Skipped
from ..core.clock import Clock, SharedClock
from ..core.logs import giving
from ..core.values import replace
from ..exceptions import JoinLost, OperationalError
from ..results import Joined
from ..results.document import DocumentCodec
from ..tasks.request import Request, failed_request
from ..tasks.retries import postponed
from ..transport import Delivery
from ..wire.message import Step
from ..wire.signing import Signer, sealed

logger = logging.getLogger("aiotq.task")

#: Seconds before a step comes again whose join could not be read.
_STORE_DELAY: Final = 1.0


class StepsCore(Protocol):
    """Where steps run, as completing their calls needs it."""

    @property
    def codec(self) -> DocumentCodec: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def shared_clock(self) -> SharedClock: ...

    @property
    def signer(self) -> Signer | None: ...

    async def joined(self, join_id: str) -> Joined | None: ...


class Steps:
    """Completes the calls of steps."""

    def __init__(self, core: StepsCore) -> None:
        self._core = core

    async def called_with(
        self, delivery: Delivery, args: Sequence[Any], kwargs: Mapping[str, Any], links: Links, policy: Policy
    ) -> tuple[Sequence[Any], Links, Outcome | None]:
        """Return the arguments of a step, and what follows it; or also its outcome, if it does not run now.

        Raises:
            MessageError: what its join holds can't be read.
        """
        step, given = delivery.message.step, links.given
        if links.broken is not None:
            args = (*self._broken(links.broken), *args)
        elif step is not None and step.awaits is not None:
            found = await self._awaited(delivery, step, step.awaits, replace(links, called_with=(args, kwargs)), policy)
            if not isinstance(found, JoinResult):
                return args, links, found
            values = () if found.is_nothing else (found.value,)
            if not step.immutable:
                args = (*values, *args)
            given = given or values
        if links.is_given:
            given = tuple(args[:1])
        return args, replace(links, given=given, called_with=(args, kwargs)), None

    async def _awaited(
        self, delivery: Delivery, step: Step, join_id: str, links: Links, policy: Policy
    ) -> JoinResult | Outcome:
        """Return what a step waited for; or its outcome, if that failed, or it is to start later, or not at all."""
        message = delivery.message
        try:
            joined = await self._core.joined(join_id)
        except OperationalError as exc:
            logger.warning("Task %s[%s]: the values for it can't be read now: %s", message.task, message.id, exc)
            return Returned(delivery, _STORE_DELAY)
        if joined is None:
            return Failure(
                delivery, JoinLost(f"join {join_id}, which started it, is not known any more"), policy, links
            )
        gathered = gather(joined, self._core.codec)
        if gathered.error is not None:
            why = describe(gathered.error)
            if gathered.is_passed_on:
                text = "Task %s[%s] does not run, an earlier step ended: %s"
                logger.info(text, message.task, message.id, why, extra=giving(gathered.state))
                links = replace(links, scope=links.scope + gathered.scope)
                return Skipped(delivery, gathered.error, gathered.state, policy, links, gathered.cause)
            links = replace(links, given=())
            logger.error("Task %s[%s] does not run: %s", message.task, message.id, why, extra=giving(states.FAILURE))
            return Failure(delivery, gathered.error, policy, links)
        now = self._core.clock.time()
        if step.lifetime is not None and joined.ended_at + step.lifetime <= now:
            logger.info("Task %s[%s] expired", message.task, message.id, extra=giving(states.REVOKED))
            return Revoked(delivery, "expired", policy, links)
        if step.wait is not None and (due := joined.ended_at + step.wait) > now:
            ahead = self._core.shared_clock.ahead
            later = postponed(message, step, delivery.queue, delivery.priority, joined.ended_at, due, ahead)
            return Postponed(delivery, sealed(self._core.signer, later))
        return gathered

    def _broken(self, broken: Broken) -> tuple[Request, BaseException, str | None]:
        """Return what an error callback is called with: the failed call, its exception, its traceback."""
        error = self._core.codec.decode_exception(broken.error, broken.traceback)
        return failed_request(broken.request), error, broken.traceback
