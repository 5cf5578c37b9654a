"""Scripts: Lua text with its hash. A script is the library files it includes and its own, in this order.

Every script has one key, the base of all others (`{prefix}`): they begin with it, and its braces are a hash tag, so in
a cluster all of them are in one slot. Its arguments are one MessagePack blob, which the server reads in C.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import msgpack

_PACK: Final = msgpack.Packer(use_bin_type=False, autoreset=True).pack


class Script:
    """One script of the files `names` (without `.lua`) in the directory `lua`."""

    def __init__(self, *names: str) -> None:
        self.name = names[-1]
        self._names = names
        self._text: bytes | None = None
        self._sha = b""

    @property
    def text(self) -> bytes:
        if self._text is None:
            parts = [(files("aiotq.backends.redis") / "lua" / f"{name}.lua").read_bytes() for name in self._names]
            self._text = b"\n".join(parts)
            self._sha = hashlib.sha1(self._text, usedforsecurity=False).hexdigest().encode()
        return self._text

    @property
    def sha(self) -> bytes:
        return self._sha or (self.text and self._sha)


def pack(arguments: Sequence[Any]) -> bytes:
    """Return the arguments of a script as it reads them: text and bytes are both strings there."""
    packed: bytes = _PACK(arguments)
    return packed


def unpack(data: bytes) -> Any:
    """Return what a script packed; strings are bytes."""
    return msgpack.unpackb(data, raw=True, strict_map_key=False)
