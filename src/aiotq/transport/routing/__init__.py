"""Where calls go: queues, exchanges and routes."""

from .declared import (
    MAX_WEIGHT,
    Binding,
    Exchange,
    Queue,
    bound_exchanges,
    check_queues,
    check_weights,
    declared_queues,
    select_queues,
)
from .router import PLACES, Route, Router
from .routes import OptionCheck, check_routes

__all__ = [
    "MAX_WEIGHT",
    "PLACES",
    "Binding",
    "Exchange",
    "OptionCheck",
    "Queue",
    "Route",
    "Router",
    "bound_exchanges",
    "check_queues",
    "check_routes",
    "check_weights",
    "declared_queues",
    "select_queues",
]
