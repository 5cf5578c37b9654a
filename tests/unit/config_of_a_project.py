"""Settings as a project writes them, beside all that a module has otherwise."""

from __future__ import annotations

import os
from pathlib import PurePath

broker_url = os.fspath(PurePath("memory:")) + "//"
worker_concurrency = 7


class Testing:
    worker_concurrency = 8
