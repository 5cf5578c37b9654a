"""`cache+memcached://host1:11211;host2:11211?prefix=proj:&timeout=1&connections=8`: one memcached, or several."""

from __future__ import annotations

import re
from typing import Final

from ...core.net import urls
from ...core.values import value

SCHEME: Final = "cache+memcached"
#: Characters that a key can't have begin none of these.
_PREFIX: Final = re.compile(r"[!-~]{0,100}")


@value
class Address:
    """Where the servers are. `timeout` is in seconds, `connections` is the most to one server."""

    hosts: tuple[tuple[str, int], ...]
    prefix: str  #: what each key begins with
    timeout: float
    connections: int

    @property
    def shown(self) -> str:
        """The servers, for people."""
        return f"{SCHEME}://{';'.join(f'{host}:{port}' for host, port in self.hosts)}"


def parse(url: str) -> Address:
    """Return what `url` says.

    Raises:
        ValueError: it can't be used; the text says why.
    """
    parts = urls.split(url, (SCHEME,))
    if parts.has_credentials:
        raise ValueError("there are no passwords for memcached here: it belongs into a network that others can't reach")
    if parts.path.strip("/"):
        raise ValueError(f"it ends with its hosts: {parts.path!r} can only be an option (?prefix=proj:)")
    options = urls.options_of(parts.query, ("prefix", "timeout", "connections"), encrypted=None)
    prefix = options.get("prefix", "aiotq:")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"prefix must be at most 100 printable ASCII characters without spaces, not {prefix!r}")
    connections = options.get("connections", "8")
    if not connections.isdecimal() or int(connections) < 1:
        raise ValueError(f"connections must be a number above 0, not {connections!r}")
    hosts = tuple(dict.fromkeys(urls.host_and_port(each, 11211) for each in re.split("[;,]", parts.hosts)))
    return Address(hosts, prefix, urls.seconds(options, "timeout", 2.0), int(connections))
