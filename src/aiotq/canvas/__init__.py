"""Describing calls and what follows from their outcomes."""

from .coordinator import Coordinator
from .outcome import Outcome
from .signature import Signature

__all__ = ["Coordinator", "Outcome", "Signature"]
