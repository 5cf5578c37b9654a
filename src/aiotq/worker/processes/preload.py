"""Imported by the fork server: imports what all children need, so that they share that memory and start at once."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from ...core import django_project


class _Preloaded(NamedTuple):
    module: str
    variable: str


#: This module, and the variable of the environment that names the others.
PRELOADED: Final = _Preloaded(__name__, "_AIOTQ_PRELOAD")


def _import_all(path: list[str], modules: list[str]) -> None:
    sys.path[:] = path  # Python 3.11 tells a fork server nothing of it
    _load("the Django project", django_project.set_up)
    for module in modules:
        _load(module, partial(importlib.import_module, module))
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, what is shared


def _load(what: str, load: Callable[[], object]) -> None:
    threads = threading.active_count()
    try:
        load()
    except Exception:  # the user's module: a child that needs it says so as well
        print(f"aiotq: {what} can't be loaded in the fork server:", file=sys.stderr)
        traceback.print_exc()
    if threading.active_count() > threads:
        print(
            f"aiotq: loading {what} starts threads, and a process with threads can't be forked safely: "
            f"start them later, or leave worker_process_start at 'spawn'",
            file=sys.stderr,
        )


if (_told := os.environ.pop(PRELOADED.variable, None)) is not None:
    _import_all(**json.loads(_told))
