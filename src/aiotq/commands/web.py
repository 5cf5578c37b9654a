"""`aiotq web`: the dashboard as a process of its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ..app import AioTQ
from ..core.settings import READ_TOKEN_VARIABLE, TOKEN_VARIABLE
from ..core.system import handle_signals, signals_here
from ..exceptions import InvalidOption, OperationalError
from ..web.listening import listen
from .app_option import CommandFailed, Target, UsageError, connected
from .command import command
from .http import place_of
from .logs import log_as, start_logging
from .reaching import reached
from .worker import Level, LogFormat

if TYPE_CHECKING:
    from ..web.dashboard.application import Dashboard
    from ..web.dashboard.doors import Role

logger = logging.getLogger("aiotq.web")

_STOPPING: Final = signals_here("SIGTERM", "SIGINT", "SIGHUP")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@command()
def web(
    target: Target,
    host: Annotated[str, typer.Option(metavar="HOST", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65_535, help="0 is a free one.")] = 8080,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", envvar=TOKEN_VARIABLE, help="Who has it operates. Default: a new one, shown."),
    ] = None,
    read_token: Annotated[
        str | None, typer.Option(metavar="TOKEN", envvar=READ_TOKEN_VARIABLE, help="Who has it may only read.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no token: whoever is on this machine operates.")
    ] = False,
    level: Level = "INFO",
    log_format: LogFormat = None,
) -> None:
    """Serve the dashboard until SIGTERM, SIGHUP or SIGINT (Ctrl-C): queues, tasks, workflows, workers, schedules.

    Give tokens by the environment (AIOTQ_WEB_TOKEN): a command's words are shown to every user of the machine.
    """
    if no_auth and (token or read_token):
        raise UsageError("--no-auth asks for no token, so none can be given")
    if no_auth and host not in _LOOPBACK:
        raise UsageError(f"--no-auth listens at 127.0.0.1 or ::1 alone, not at {host}: others would operate")
    try:
        from ..web.dashboard.application import Dashboard  # noqa: PLC0415
    except ImportError as exc:
        raise CommandFailed(f"web needs {exc.name}, which is not installed: pip install 'aiotq[web]'") from exc
    handler = start_logging(level, log_format, None)
    app = target.load()
    log_as(handler, app, level, log_format, None)
    made = None if token or no_auth else secrets.token_urlsafe(18)
    try:
        if no_auth:
            dashboard = Dashboard(app, auth=None)
        else:
            roles: dict[str, Role] = {token or made or "": "operate"}
            if read_token:
                roles[read_token] = "read"
            dashboard = Dashboard(app, auth=roles)
    except InvalidOption as exc:
        raise UsageError(str(exc)) from exc
    asyncio.run(_serve(app, dashboard, host, port, made))


async def _serve(app: AioTQ, dashboard: Dashboard, host: str, port: int, made: str | None) -> None:
    from ..web.serving import serving_here  # noqa: PLC0415

    asked = asyncio.Event()
    handle_signals(_STOPPING, asked.set)
    try:
        listener = listen(host, port)
    except OperationalError as exc:
        raise CommandFailed(f"web: {exc}") from exc
    if not await reached(app, asked.wait):
        listener.close()
        return
    async with connected(app), serving_here(dashboard, listener, dashboard.send_away):
        gc.freeze()
        gc.enable()  # `main` disables it for what is short
        at = listener.getsockname()[1]
        logger.info("dashboard at http://%s/", place_of(host, at))
        if made is not None:  # to whoever started it: a log is read by others too
            print(f"token: {made}", file=sys.stderr, flush=True)
        await asked.wait()
    logger.info("the dashboard stopped")
