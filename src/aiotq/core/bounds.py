"""Between what something is scaled, and how slowly it shrinks."""

from __future__ import annotations

from typing import Final

from .values import value

#: Seconds for which little must have been used before there is less: as Celery's AUTOSCALE_KEEPALIVE.
KEPT: Final = 30.0


@value
class Bounds:
    """How many there are to be."""

    least: int
    most: int
