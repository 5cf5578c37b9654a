"""Moving messages: one contract, and what keeps it for each broker."""

from .broker import (
    ACK,
    FAIR,
    Acknowledge,
    Consumer,
    DeadLetter,
    Delivery,
    GiveUp,
    HandBack,
    QueueOrder,
    QueueStats,
    Settlement,
    Transport,
)

__all__ = [
    "ACK",
    "FAIR",
    "Acknowledge",
    "Consumer",
    "DeadLetter",
    "Delivery",
    "GiveUp",
    "HandBack",
    "QueueOrder",
    "QueueStats",
    "Settlement",
    "Transport",
]
