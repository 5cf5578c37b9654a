"""The checks of settings whose values a room of the house defines; what few use is loaded with the first value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..core.settings import Check
from ..tasks.options import check_retry_policy, check_route_option
from ..tasks.shares import check_fair_weights
from ..transport.routing import check_queues, check_routes, check_weights
from ..wire.codecs import check_encryption_keys, check_secret, check_secrets


def _check_beat_schedule(given: object) -> object:
    from ..beat.entries import check_beat_schedule  # noqa: PLC0415

    return check_beat_schedule(given)


def _check_thresholds(given: object) -> object:
    from ..control.picture import check_thresholds  # noqa: PLC0415

    return check_thresholds(given)


CHECKS: Final[Mapping[str, Check]] = {
    "alert_thresholds": _check_thresholds,
    "beat_schedule": _check_beat_schedule,
    "encryption_keys": check_encryption_keys,
    "security_key": check_secret,
    "security_previous_keys": check_secrets,
    "task_fair_weights": check_fair_weights,
    "task_publish_retry_policy": check_retry_policy,
    "task_queues": check_queues,
    "task_routes": lambda given: check_routes(given, check_route_option),
    "worker_queue_weights": check_weights,
}
