"""What every store and commit asks of joins before anything is sent, so that no step is left half done (P3)."""

from __future__ import annotations

from collections.abc import Iterable

from .base import NO_JOIN_CHANGES, Arrival, Join, JoinChanges, Record


def check_joins(joins: Iterable[Join]) -> None:
    """See that `joins` can be opened.

    Raises:
        ValueError: one waits for nobody, and so would never send anything.
    """
    for join in joins:
        if join.size < 1:
            raise ValueError(
                f"join {join.id} has the size {join.size}, and nobody can complete it: send what comes then at once"
            )


def check_joining(joining: JoinChanges, record: Record | None) -> None:
    """See that `joining`, which comes with `record`, can be written.

    Raises:
        ValueError: a join waits for nobody or is to shrink, or an arrival has no record to be kept.
    """
    if joining is NO_JOIN_CHANGES:
        return
    check_joins(joining.opened)
    for growth in joining.grown:
        if growth.count < 0:
            raise ValueError(f"join {growth.join_id} can't grow by {growth.count}: members leave it by arriving")
    for arrival in joining.arrivals:
        kept_record(arrival, record)


def kept_record(arrival: Arrival, record: Record | None) -> Record:
    """Return what is kept in the join of `arrival`, which comes with `record`.

    Raises:
        ValueError: there is nothing.
    """
    kept = arrival.record if arrival.record is not None else record
    if kept is None:
        raise ValueError(
            f"member {arrival.member!r} arrives at join {arrival.join_id} without a record: "
            "give the arrival or its finish one, which says how it ended"
        )
    return kept
