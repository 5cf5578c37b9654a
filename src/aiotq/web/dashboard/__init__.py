"""The dashboard: pages over what control/ tells of queues, tasks, workers, workflows and schedules; safe by default."""

from __future__ import annotations

from .application import Dashboard
from .doors import Auth, Basic, Role, Visitor

__all__ = ["Auth", "Basic", "Dashboard", "Role", "Visitor"]
