"""A place to be found at."""

from __future__ import annotations

import socket

from ..exceptions import OperationalError


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at `host` and `port` (0: a free one).

    Raises:
        OperationalError: nobody can listen there.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        raise OperationalError(f"can't listen at {host} port {port}: {exc.strerror or exc}") from exc
