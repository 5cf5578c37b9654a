"""What `uvicorn shop.asgi:application` serves."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

from . import app

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django = get_asgi_application()

from aiotq.contrib.django.dashboard import with_dashboard  # noqa: E402  # it needs the project, as models do

application = with_dashboard(django, app, at="/dashboard")
