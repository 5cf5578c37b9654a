"""Where deliveries came from, in Celery's words (`request.delivery_info`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.settings import Settings
from ..transport import Delivery
from ..transport.routing import bound_exchanges


class DeliveryInfo:
    """Knows which exchanges hand messages to the queues.

    A call that names none goes, as Celery's do, through the nameless exchange with its queue's name as the key; but
    through that of its queue if it is no direct one.

    Source: Celery, `celery.app.amqp.AMQP._create_task_sender`.
    """

    def __init__(self, conf: Settings) -> None:
        self._of_queues: dict[str, tuple[str, str]] = {}
        for exchange in bound_exchanges(conf).values():
            if exchange.type != "direct":
                for key, queue in exchange.bindings:
                    self._of_queues.setdefault(queue, (exchange.name, key))

    def info(self, delivery: Delivery) -> Mapping[str, Any]:
        """Return what a task sees of how it came."""
        queue = delivery.queue
        exchange, key = delivery.message.address or self._of_queues.get(queue) or ("", queue)
        return {
            "exchange": exchange,
            "routing_key": key,
            "queue": queue,
            "priority": delivery.priority,
            "redelivered": delivery.deaths + delivery.returns > 0,
        }
