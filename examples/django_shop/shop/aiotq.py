"""The task queue of this project."""

from __future__ import annotations

import os

from aiotq import AioTQ

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = AioTQ("shop")
app.config_from_object("django.conf:settings", namespace="AIOTQ")
app.autodiscover_tasks()  # the modules `tasks` of INSTALLED_APPS
