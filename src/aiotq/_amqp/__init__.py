"""What is common to all that is kept in a RabbitMQ: addresses, connections, channels, what is declared there."""

from .address import SCHEMES, Address, Endpoint, parse
from .channel import Channel, Published, Refused
from .client import AmqpClient, Lane
from .frames import Arrival, Post, pack_properties, pamqp, properties_of
from .ladder import LONGEST_DELAY, highest_digit, ladder_delay, ladder_exchange, ladder_key
from .topology import (
    CLASSES,
    DEAD,
    LONGEST_NAME,
    TO,
    Topology,
    class_of,
    name_of,
    queue_of,
    queues_of,
)
from .wire import Wire

__all__ = [
    "CLASSES",
    "DEAD",
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
    "highest_digit",
    "ladder_delay",
    "ladder_exchange",
    "ladder_key",
    "name_of",
    "pack_properties",
    "pamqp",
    "parse",
    "properties_of",
    "queue_of",
    "queues_of",
]
