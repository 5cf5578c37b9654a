"""Graphs as text, DOT and SVG: loaded when the first one is drawn, which few processes do."""

from __future__ import annotations

from collections.abc import Sequence

from .dot import as_dot
from .graph import Edge, Node
from .layout import outline
from .svg import as_svg
from .text import as_text


def text(nodes: Sequence[Node], edges: Sequence[Edge], limit: int | None, *, colour: bool) -> str:
    """Return a tree of lines."""
    return as_text(outline(nodes, edges, limit), colour=colour)


def dot(nodes: Sequence[Node], edges: Sequence[Edge], limit: int | None) -> str:
    """Return it in Graphviz's language."""
    return as_dot(outline(nodes, edges, limit))


def svg(nodes: Sequence[Node], edges: Sequence[Edge], limit: int | None) -> str:
    """Return a drawing."""
    return as_svg(outline(nodes, edges, limit))
