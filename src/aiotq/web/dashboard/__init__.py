"""The dashboard: pages over what control/ tells of queues, tasks, workers, workflows and schedules; safe by default."""

from __future__ import annotations

from ...exceptions import MissingLibrary

try:
    import jinja2 as _jinja2  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import starlette as _starlette  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ModuleNotFoundError as exc:
    raise MissingLibrary(f"the dashboard needs {exc.name}, which is not installed: pip install 'aiotq[web]'") from exc

from .application import Dashboard
from .doors import Auth, Basic, Role, Visitor

__all__ = ["Auth", "Basic", "Dashboard", "Role", "Visitor"]
