"""Moving messages: one contract, and what keeps it for each broker."""

from .broker import (
    ACK,
    ALL_DELAYED,
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
    "ALL_DELAYED",
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
