"""The graph of a canvas: loaded when the first is drawn, which few processes do."""

from __future__ import annotations

from typing import Any

from ..graph.builder import GraphBuilder, Place
from ..graph.graph import Graph
from .plan_data import whole_plan
from .signature import Canvas


def graph_of(canvas: Canvas[Any]) -> Graph:
    """Return the calls and groups of `canvas` as a graph. Calls that have no id yet are numbered."""
    builder = GraphBuilder()
    builder.draw(whole_plan(canvas), Place())
    return builder.graph()
