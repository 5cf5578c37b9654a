"""Describing workflows, planning them, and what follows from their outcomes."""

from .forms import as_canvas, as_form, signature
from .signature import Canvas, Chain, Chord, Chunks, Group, Signature, chain, chord, group

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
