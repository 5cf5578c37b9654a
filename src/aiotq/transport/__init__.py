"""Moving messages: one file a broker, one contract."""

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
