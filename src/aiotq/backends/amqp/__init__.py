"""RabbitMQ as broker, and results as messages (`rpc://`). `TapConnection` is for `amqp_connect`."""

from ...exceptions import MissingLibrary

try:
    from .tap import TapConnection
except ImportError as exc:
    raise MissingLibrary(
        f"an amqp:// URL needs aio-pika, and there is no {exc.name}: pip install 'aiotq[amqp]'"
    ) from exc

__all__ = ["TapConnection"]
