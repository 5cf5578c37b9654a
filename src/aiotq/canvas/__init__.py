"""Describing workflows, planning them, and what follows from their outcomes."""

from .compose import chain, chord, group
from .composites import Chain, Chord, Chunks, Group
from .serialized import as_canvas, as_form, signature
from .signature import Canvas, Signature

__all__ = [
    "Canvas",
    "Chain",
    "Chord",
    "Chunks",
    "Group",
    "Signature",
    "as_canvas",
    "as_form",
    "chain",
    "chord",
    "group",
    "signature",
]
