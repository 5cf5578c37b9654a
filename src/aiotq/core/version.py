"""The version of this library, for those inside who tell it to others."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.2.0"
