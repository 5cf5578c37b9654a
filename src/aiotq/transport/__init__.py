"""Moving messages: one contract, and what keeps it for each broker."""

from .broker import (
    ACK,
    FAIR,
    MAX_DETAIL,
    Acknowledge,
    Broker,
    Consumer,
    DeadLetter,
    Delivery,
    GiveUp,
    HandBack,
    QueueOrder,
    QueueStats,
    Settlement,
)

__all__ = [
    "ACK",
    "FAIR",
    "MAX_DETAIL",
    "Acknowledge",
    "Broker",
    "Consumer",
    "DeadLetter",
    "Delivery",
    "GiveUp",
    "HandBack",
    "QueueOrder",
    "QueueStats",
    "Settlement",
]
