"""The Django project that this process is part of, if it is: set up before modules of tasks are imported.

Django itself is loaded when `DJANGO_SETTINGS_MODULE` is set, which makes a process part of a project.

Source: Django, "Settings" (`django.setup`), "Applications" (initialization process).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any, Final

#: Loaded where there is a project, and by nobody else: it needs Django.
_CONNECTIONS: Final = "aiotq.contrib.django.connections"


def is_there() -> bool:
    """Whether this process is part of a project."""
    return "DJANGO_SETTINGS_MODULE" in os.environ and importlib.util.find_spec("django") is not None


def set_up() -> None:
    """Load the applications and models of the project, unless there is none, or it was done or is being done.

    From then on the database connections of tasks are looked after.
    """
    if is_there():
        applications: Any = importlib.import_module("django.apps").apps
        if not (applications.ready or applications.loading):
            importlib.import_module("django").setup()
        importlib.import_module(_CONNECTIONS).install()


def packages() -> Sequence[str]:
    """Return the packages in its `INSTALLED_APPS`."""
    set_up()
    applications: Any = importlib.import_module("django.apps").apps
    return [config.name for config in applications.get_app_configs()]
