"""What is common to all that is kept in a RabbitMQ: addresses, connections, channels, what is declared there."""

from .address import SCHEMES, Address, Endpoint, parse
from .channel import Channel, Published, Refused
from .client import AmqpClient, Lane
from .frames import Arrival, Post, pack_properties, pamqp, properties_of
from .topology import (
    CLASSES,
    DEAD,
    FINEST,
    LEVELS,
    LONGEST_DELAY,
    LONGEST_NAME,
    TO,
    Topology,
    class_of,
    ladder_exchange,
    ladder_key,
    ladder_queue,
    name_of,
    queue_of,
    queues_of,
)
from .wire import Wire

__all__ = [
    "CLASSES",
    "DEAD",
    "FINEST",
    "LEVELS",
    "LONGEST_DELAY",
    "LONGEST_NAME",
    "SCHEMES",
    "TO",
    "Address",
    "AmqpClient",
    "Arrival",
    "Channel",
    "Endpoint",
    "Lane",
    "Post",
    "Published",
    "Refused",
    "Topology",
    "Wire",
    "class_of",
    "ladder_exchange",
    "ladder_key",
    "ladder_queue",
    "name_of",
    "pack_properties",
    "pamqp",
    "parse",
    "properties_of",
    "queue_of",
    "queues_of",
]
