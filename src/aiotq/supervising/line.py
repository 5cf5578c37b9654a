"""What a worker tells the parent that started it, on the socket of `--parent-fd`: a byte each.

The end of that connection asks the worker to stop.
"""

from __future__ import annotations

import enum
from typing import Final

READY: Final = b"R"
#: It has done its share: it ends, and another one is to go on.
ANOTHER: Final = b"A"
#: It has done all there was: nobody is to go on.
DONE: Final = b"D"


class Load(enum.Enum):
    """What a worker says of itself: calls wait for long in its queues, or few of its slots are taken."""

    BEHIND = b"L"
    BUSY = b"B"
    QUIET = b"Q"
