"""The event `task-sent`."""

from __future__ import annotations

from ..control.event_format import iso
from ..control.event_sender import EventSender
from ..wire.message import Envelope


def tell_sent(
    sender: EventSender,
    envelope: Envelope,
    arguments: tuple[str, str] | None = None,
) -> None:
    """Have `task-sent` told of a call that the broker has; `arguments` as they may be shown, None if not known."""
    message = envelope.message
    exchange, key = message.address or ("", envelope.queue)
    sender.add_event(
        "task-sent",
        uuid=message.id,
        name=message.shadow or message.task,
        args=None if arguments is None else arguments[0],
        kwargs=None if arguments is None else arguments[1],
        root_id=message.root_id or message.id,
        parent_id=message.parent_id,
        retries=message.retries,
        eta=iso(message.eta),
        expires=iso(message.expires),
        queue=envelope.queue,
        exchange=exchange,
        routing_key=key,
    )
