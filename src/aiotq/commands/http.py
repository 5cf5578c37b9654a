"""`--http`: health and metrics of a worker or scheduler process, for probes and Prometheus."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Annotated, Final

import typer

from ..app import AioTQ
from ..core.inside import core_of
from ..core.settings import TOKEN_VARIABLE
from ..exceptions import InvalidOption, OperationalError
from ..web.listening import listen
from .app_option import CommandFailed, UsageError

logger = logging.getLogger("aiotq.web")

Http = Annotated[
    str | None,
    typer.Option("--http", metavar="HOST:PORT", help="Serve /live, /ready and /metrics there (aiotq[metrics])."),
]

_LOOPBACK: Final = "127.0.0.1"


def read_address(text: str) -> tuple[str, int]:
    """Return the host and port that `--http` names; a port alone is this machine's own.

    Raises:
        UsageError: it names none.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else _LOOPBACK
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"--http: write HOST:PORT, as 127.0.0.1:9100 or [::]:9100, not {text!r}")
    return host, int(port)


@asynccontextmanager
async def serving_health(app: AioTQ, address: tuple[str, int] | None) -> AsyncGenerator[None, None]:
    """Serve what is seen of this process while entered; nothing without an address.

    Raises:
        CommandFailed: the libraries are not installed, or nobody can listen there.
    """
    if address is None:
        yield
        return
    try:
        from ..web.health import Health  # noqa: PLC0415
        from ..web.serving import serving  # noqa: PLC0415
    except ImportError as exc:
        raise _not_installed(exc) from exc
    listener, place = listening(address)
    health = Health(core_of(app), works=True, home=asyncio.get_running_loop())
    async with serving(health.application(), listener):
        logger.info("health and metrics at http://%s/", place)
        yield


@asynccontextmanager
async def telling_parent(app: AioTQ, fd: int) -> AsyncGenerator[None, None]:
    """Tell the parent of several workers what is seen of this process while entered, when it asks at socket `fd`."""
    from ..web.health import Health  # noqa: PLC0415
    from ..web.reporting import telling  # noqa: PLC0415

    health = Health(core_of(app), works=True, home=asyncio.get_running_loop())
    async with telling(health, socket.socket(fileno=fd)):
        yield


def listening(address: tuple[str, int]) -> tuple[socket.socket, str]:
    """Return a socket that listens where `--http` says, and where that is.

    Raises:
        CommandFailed: nobody can listen there.
    """
    try:
        listener = listen(*address)
    except OperationalError as exc:
        raise CommandFailed(f"--http: {exc}") from exc
    return listener, place_of(*listener.getsockname()[:2])


def check_installed() -> None:
    """Check that what workers tell their parent can be made by them.

    Raises:
        CommandFailed: a library is not installed.
    """
    for name in ("prometheus_client", "starlette"):
        if find_spec(name) is None:
            raise _not_installed(ImportError(name=name))


def _not_installed(error: ImportError) -> CommandFailed:
    return CommandFailed(f"--http needs {error.name}, which is not installed: pip install 'aiotq[metrics]'")


@asynccontextmanager
async def serving_dashboard(app: AioTQ, address: tuple[str, int] | None) -> AsyncGenerator[None, None]:
    """Serve the dashboard of `app` while entered, for who has the token of the environment; nothing without an address.

    Raises:
        CommandFailed: there is no such token, or nobody can listen there.
    """
    if address is None:
        yield
        return
    from ..web.dashboard.application import Dashboard  # noqa: PLC0415
    from ..web.serving import serving_here  # noqa: PLC0415

    try:
        dashboard = Dashboard(app, auth=os.environ.get(TOKEN_VARIABLE, ""))
        listener = listen(*address)
    except (InvalidOption, OperationalError) as exc:
        raise CommandFailed(f"the dashboard: {exc}") from exc
    async with serving_here(dashboard, listener, dashboard.send_away):
        yield


def place_of(host: str, port: int) -> str:
    """Return host and port as they stand in a URL."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"
