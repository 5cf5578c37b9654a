"""Moving messages: one contract, and what keeps it for each broker."""

from .base import (
    ACK,
    Acknowledge,
    Consumer,
    DeadLetter,
    Delivery,
    GiveUp,
    HandBack,
    QueueStats,
    Settlement,
    Transport,
)

__all__ = [
    "ACK",
    "Acknowledge",
    "Consumer",
    "DeadLetter",
    "Delivery",
    "GiveUp",
    "HandBack",
    "QueueStats",
    "Settlement",
    "Transport",
]
