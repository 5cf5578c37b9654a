"""The start of the small process above several workers. This file is run as a program: see `plan.py`.

It loads what it needs of the library without `aiotq/__init__`, which loads nearly all: 20 MB as long as workers run.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

if __name__ == "__main__":
    package = types.ModuleType("aiotq")
    package.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["aiotq"] = package
    sys.exit(importlib.import_module("aiotq.supervising.plan").main())
