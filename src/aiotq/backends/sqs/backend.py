"""`sqs://?region=eu-west-1`: Amazon SQS as broker (see `address` for the URLs)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from ...exceptions import InvalidSetting
from ...transport.routing import declared_queues
from ..base import Backend, BackendContext, backend_class
from .address import parse
from .broker import SqsBroker
from .connection import SqsClient
from .topology import name_problem


class SqsBackend(Backend):
    """A broker alone: it keeps no results, decides nothing, and tells processes nothing."""

    has_ledger = False

    def __init__(self, url: str, context: BackendContext) -> None:
        conf = context.conf
        if conf.celery_compat:
            raise InvalidSetting("celery_compat", True, "False: messages of Celery's in SQS have another form")
        self._client = SqsClient(parse(url))
        self.broker = SqsBroker(
            self._client,
            clock=context.clock,
            priority=conf.task_default_priority,
            dead_letter_retention=conf.dead_letter_expires,
            names=(conf.task_default_queue, *declared_queues(conf)),
            has_claims=_has_claims(conf.ledger or conf.result_backend),
        )

    @classmethod
    def key(cls, url: str) -> Hashable:
        return parse(url)

    @classmethod
    def queue_problem(cls, name: str) -> str | None:
        return name_problem(name)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.__aexit__(*exc_info)


def _has_claims(backend: str | None) -> bool:
    """Whether claims are kept where all workers see them."""
    found = backend_class(backend or "")
    return found is not None and found.has_ledger
