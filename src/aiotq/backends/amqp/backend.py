"""`amqp://host/vhost`: a RabbitMQ (see `address` for the URLs), and as a results backend messages in it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from ...transport.routing import declared_queues
from ..base import Backend, BackendContext, backend_class
from .address import parse
from .broker import AmqpBroker, name_problem
from .bus import AmqpBus
from .celery_mail import AmqpCeleryMail
from .connection import AmqpClient
from .records import RpcRecords


class AmqpBackend(Backend):
    """Broker and bus in one virtual host; records are sent through it to who asked for them. It decides nothing."""

    has_ledger = False

    def __init__(self, url: str, context: BackendContext) -> None:
        conf = context.conf
        self._client = AmqpClient(parse(url), "aiotq", conf.amqp_connect)
        self.broker = AmqpBroker(
            self._client,
            clock=context.clock,
            kind=conf.amqp_queue_type,
            dead_letter_retention=conf.dead_letter_expires,
            # Without claims that all workers see, a copy of what runs would run as well.
            park_after=conf.amqp_park_after if _has_claims(conf.ledger or conf.result_backend) else None,
            names=(conf.task_default_queue, *declared_queues(conf)),
            is_celerys=conf.celery_compat,
        )
        self.records = RpcRecords(self._client, expires=conf.result_expires, clock=context.clock)
        self.bus = AmqpBus(self._client)
        self.celery = AmqpCeleryMail(self._client, context.clock) if conf.celery_compat else None

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
    """Whether results are kept where claims can be, and not sent as messages."""
    found = backend_class(backend or "")
    return found is not None and found.has_ledger
