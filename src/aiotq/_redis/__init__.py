"""What is common to all that is kept in a Redis: addresses, connections, scripts, numbered writes."""

from .address import SCHEMES, Address, parse
from .blocking import BlockingClient
from .client import RedisClient, info_fields
from .envelopes import PackedEnvelope, envelopes_of, packed_envelopes, packed_key, unpacked_key
from .line import Line
from .script import Script, pack, unpack

__all__ = [
    "SCHEMES",
    "Address",
    "BlockingClient",
    "Line",
    "PackedEnvelope",
    "RedisClient",
    "Script",
    "envelopes_of",
    "info_fields",
    "pack",
    "packed_envelopes",
    "packed_key",
    "parse",
    "unpack",
    "unpacked_key",
]
