"""Scripts: Lua text with its hash. A script is the library files it includes and its own, in this order.

To make the functions of a library takes a large part of a small call. A `late` one makes them when they are wanted.

Every script has one key, the base of all others (`{prefix}`): they begin with it, and its braces are a hash tag, so in
a cluster all of them are in one slot. Its arguments are one MessagePack blob, which the server reads in C.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from importlib.resources import files
from typing import Any, Final

import msgpack

#: A function of a library.
_FUNCTION: Final = re.compile(r"^local function (\w+)\(", re.MULTILINE)
_PACK: Final = msgpack.Packer(use_bin_type=False, autoreset=True).pack


class Script:
    """One script of the files `names` (without `.lua`) in the directory `lua`.

    Those among them that are `late` are libraries of few calls: in place of `f(…)` the script says `library().f(…)`.
    """

    def __init__(self, *names: str, late: Collection[str] = ()) -> None:
        self.name = names[-1]
        self._names = names
        self._late = late
        self._text: bytes | None = None
        self._sha = b""

    @property
    def text(self) -> bytes:
        if self._text is None:
            parts = [_file(name) if name not in self._late else _made_late(name) for name in self._names]
            self._text = "\n".join(parts).encode()
            self._sha = hashlib.sha1(self._text, usedforsecurity=False).hexdigest().encode()
        return self._text

    @property
    def sha(self) -> bytes:
        return self._sha or (self.text and self._sha)


def _file(name: str) -> str:
    return (files("aiotq.backends.redis") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _made_late(name: str) -> str:
    """Return a function `name` which makes the functions of that library, once, and returns them by their names."""
    text = _file(name)
    exported = ", ".join(f"{each} = {each}" for each in _FUNCTION.findall(text))
    return f"""local made_{name}
local function {name}()
    if not made_{name} then
{text}
        made_{name} = {{{exported}}}
    end
    return made_{name}
end"""


def pack(arguments: Sequence[Any]) -> bytes:
    """Return the arguments of a script as it reads them: text and bytes are both strings there."""
    packed: bytes = _PACK(arguments)
    return packed


def unpack(data: bytes) -> Any:
    """Return what a script packed; strings are bytes."""
    return msgpack.unpackb(data, raw=True, strict_map_key=False)
