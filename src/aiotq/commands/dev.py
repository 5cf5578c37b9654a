"""`aiotq dev`: a worker, a scheduler and the dashboard in one process, started anew when code changes."""

from __future__ import annotations

import logging
import secrets
from importlib.util import find_spec
from typing import Annotated, Final

import typer

from ..core.settings import APP_VARIABLE, TOKEN_VARIABLE
from ..supervising.kept_worker import ChildCommand
from ..supervising.plan import Plan, run_plan
from ..web.listening import listen
from .app_option import BROKER_VARIABLE, CommandFailed, Target
from .command import command
from .http import place_of
from .logs import start_logging
from .reload import run_reloading
from .worker import Level

logger = logging.getLogger("aiotq.workers")

#: Seconds that running tasks have when the code has changed: a developer waits for them.
_GRACE: Final = "2"


@command()
def dev(
    target: Target,
    host: Annotated[str, typer.Option(metavar="HOST", help="The address of the dashboard.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65_535, help="Its port.")] = 8080,
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", envvar=TOKEN_VARIABLE, help="Its token. Default: a new one, shown.")
    ] = None,
    level: Level = "INFO",
) -> None:
    """Run all that a developer needs until Ctrl-C: a worker with a scheduler, and the dashboard.

    All of it is one process, so memory:// is enough as a broker. It is started anew when a .py file of the project
    changes (aiotq[reload]); running tasks have two seconds to end then.
    """
    if find_spec("jinja2") is None or find_spec("uvicorn") is None:
        raise CommandFailed("dev shows the dashboard, whose libraries are not installed: pip install 'aiotq[web]'")
    listen(host, port).close()  # said once and here, and not by each process that is started
    start_logging(level, None, "workers")
    made = token or secrets.token_urlsafe(18)
    words = ["--beat", "--grace", _GRACE, "--level", level, "--dashboard", place_of(host, port)]
    secret = {TOKEN_VARIABLE: made} if target.broker is None else {TOKEN_VARIABLE: made, BROKER_VARIABLE: target.broker}
    child = ChildCommand(target.spec, words, {APP_VARIABLE: target.spec, **secret})
    typer.echo(f"dashboard at http://{place_of(host, port)}/")
    if token is None:
        typer.echo(f"token: {made}")
    if find_spec("watchfiles") is None:
        logger.warning("code that changes is not seen: watchfiles is not installed (pip install 'aiotq[reload]')")
        is_well = run_plan(Plan(child, name=None, count=1, bounds=None, level=level, log_format=None))
    else:
        is_well = run_reloading(child, name=None, count=1)
    raise typer.Exit(0 if is_well else 1)
