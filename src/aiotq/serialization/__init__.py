"""Content types: how arguments and results become bytes and come back (P5: only accepted ones, bounded)."""

from .registry import Serializer, SerializerRegistry
from .standard import JSON, MSGPACK, standard_registry

__all__ = ["JSON", "MSGPACK", "Serializer", "SerializerRegistry", "standard_registry"]
