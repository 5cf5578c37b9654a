"""Content types: how arguments and results become bytes and come back (P5: only accepted ones, bounded)."""

from .certificates import CertificateSigner
from .compression import Compression, CompressionRegistry
from .known import KnownTypes
from .registry import Serializer, SerializerRegistry
from .signing import SharedKey, Signer, sealed
from .standard import JSON, MSGPACK, PICKLE, PLAIN_JSON, YAML, standard_registry

__all__ = [
    "JSON",
    "MSGPACK",
    "PICKLE",
    "PLAIN_JSON",
    "YAML",
    "CertificateSigner",
    "Compression",
    "CompressionRegistry",
    "KnownTypes",
    "Serializer",
    "SerializerRegistry",
    "SharedKey",
    "Signer",
    "sealed",
    "standard_registry",
]
