"""What a process serves beside its work: `--http` (health and metrics), and the dashboard of `aiotq dev`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
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

Address = tuple[str, int]
Serving = AbstractAsyncContextManager[None]

_LOOPBACK: Final = "127.0.0.1"


def read_address(text: str) -> Address:
    """Return the host and port that `--http` names; a port alone is this machine's own.

    Raises:
        UsageError: it names none.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else _LOOPBACK
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"--http: write HOST:PORT, as 127.0.0.1:9100 or [::]:9100, not {text!r}")
    return host, int(port)


def serving_health(app: AioTQ, address: Address | None) -> Serving:
    """Serve what is seen of this process while entered; nothing without an address.

    Raises:
        CommandFailed: the libraries are not installed, or nobody can listen there.
    """
    return _serving("--http", "metrics", address, partial(_health, app))


@asynccontextmanager
async def telling_parent(app: AioTQ, fd: int) -> AsyncGenerator[None, None]:
    """Tell the parent of several workers what is seen of this process while entered, when it asks at socket `fd`."""
    from ..web.health import Health  # noqa: PLC0415
    from ..web.reporting import telling  # noqa: PLC0415

    health = Health(core_of(app), works=True, home=asyncio.get_running_loop())
    async with telling(health, socket.socket(fileno=fd)):
        yield


def listening(address: Address) -> tuple[socket.socket, str]:
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
            raise _not_installed("--http", "metrics", ImportError(name=name))


def _not_installed(what: str, extra: str, error: ImportError) -> CommandFailed:
    return CommandFailed(f"{what} needs {error.name}, which is not installed: pip install 'aiotq[{extra}]'")


def serving_dashboard(app: AioTQ, address: Address | None) -> Serving:
    """Serve the dashboard of `app` while entered, for who has the token of the environment; nothing without an address.

    Raises:
        CommandFailed: there is no such token, the libraries are not installed, or nobody can listen there.
    """
    return _serving("the dashboard", "web", address, partial(_dashboard, app))


@asynccontextmanager
async def _serving(
    what: str, extra: str, address: Address | None, serve: Callable[[Address], Serving]
) -> AsyncGenerator[None, None]:
    """Be in what `serve` makes of `address`; its errors are those of a command that serves `what`."""
    if address is None:
        yield
        return
    try:
        opened = serve(address)
    except ImportError as exc:
        raise _not_installed(what, extra, exc) from exc
    except (InvalidOption, OperationalError) as exc:
        raise CommandFailed(f"{what}: {exc}") from exc
    async with opened:
        yield


def _health(app: AioTQ, address: Address) -> Serving:
    from ..web.health import Health  # noqa: PLC0415
    from ..web.serving import serving  # noqa: PLC0415

    health = Health(core_of(app), works=True, home=asyncio.get_running_loop())
    listener, place = listening(address)
    logger.info("health and metrics at http://%s/", place)
    return serving(health.application(), listener)


def _dashboard(app: AioTQ, address: Address) -> Serving:
    from ..web.dashboard.application import Dashboard  # noqa: PLC0415
    from ..web.serving import serving_here  # noqa: PLC0415

    dashboard = Dashboard(app, auth=os.environ.get(TOKEN_VARIABLE, ""))
    return serving_here(dashboard, listen(*address), dashboard.send_away)


def place_of(host: str, port: int) -> str:
    """Return host and port as they stand in a URL."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"
