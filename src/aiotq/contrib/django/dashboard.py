"""The dashboard under the addresses of a Django project, for its staff.

    # asgi.py
    application = with_dashboard(get_asgi_application(), app, at="/dashboard")

Who is logged in to the admin may look; who has the permission `aiotq.operate`, as superusers do, operates.

Source: Django, "How to deploy with ASGI"; `django.contrib.sessions`, `django.contrib.auth.get_user`.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.db import connections
from starlette.requests import Request
from starlette.routing import Mount, Router

from ...app import AioTQ
from ...web.dashboard import Visitor


def with_dashboard(django: Any, app: AioTQ, *, at: str = "/dashboard") -> Router:
    """Return an ASGI application: the dashboard of `app` below `at`, and `django` everywhere else.

    The app is connected while the server runs.
    """
    return Router([Mount(at, app.dashboard(auth=staff)), Mount("/", django)], lifespan=app.lifespan)


async def staff(request: Request) -> Visitor | None:
    """Return who asks: a member of the project's staff; None for all others."""
    key = request.cookies.get(settings.SESSION_COOKIE_NAME)
    if not key:
        return None
    async with ThreadSensitiveContext():
        return await sync_to_async(_member)(key)


def _member(session_key: str) -> Visitor | None:
    store = importlib.import_module(settings.SESSION_ENGINE).SessionStore
    try:
        user: Any = get_user(SimpleNamespace(session=store(session_key)))  # pyright: ignore[reportArgumentType]
        if not (user.is_active and user.is_staff):
            return None
        return Visitor(user.get_username(), "operate" if user.has_perm("aiotq.operate") else "read")
    finally:
        connections.close_all()
