"""`amqp://host/vhost`: a RabbitMQ (see `_amqp.Address` for the URLs), and as a results backend messages in it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from ...commit import Committer
from ...transport.routing import declared_queues
from ..base import SCHEMES, Backend, BackendContext
from .address import parse
from .broker import AmqpBroker
from .connection import AmqpClient
from .records import RpcStore


class AmqpBackend(Backend):
    """The broker in one virtual host; results are sent through it to who asked for them."""

    def __init__(self, url: str, context: BackendContext) -> None:
        conf = context.conf
        self._client = AmqpClient(parse(url), "aiotq")
        self.broker = AmqpBroker(
            self._client,
            clock=context.clock,
            kind=conf.amqp_queue_type,
            dead_letter_retention=conf.dead_letter_expires,
            # Without claims that all workers see, a copy of what runs would run as well.
            park_after=conf.amqp_park_after if _has_claims(conf.result_backend) else None,
            names=(conf.task_default_queue, *declared_queues(conf)),
            is_celerys=conf.celery_compat,
        )
        self.store = RpcStore(self._client, expires=conf.result_expires, clock=context.clock)

    @classmethod
    def key(cls, url: str) -> Hashable:
        return parse(url)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.__aexit__(*exc_info)

    def committer(self) -> Committer | None:
        return None


def _has_claims(backend: str | None) -> bool:
    """Whether results are kept where claims can be, and not sent as messages."""
    scheme = (backend or "").partition("://")[0]
    return SCHEMES.get(scheme, "amqp") != "amqp"
