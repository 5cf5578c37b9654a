"""Finishes without a delivery: which may be repeated, and under which claim the others are closed once."""

from __future__ import annotations

from ..results.ledger import NO_JOIN_CHANGES
from .committer import Finish


def is_plain(finish: Finish) -> bool:
    """Whether a finish does nothing at joins but open them, which may be repeated."""
    joining = finish.joining
    return joining is NO_JOIN_CHANGES or not (
        joining.grown or joining.arrivals or joining.extended or joining.released or joining.keys
    )


def made_up_key(finish: Finish) -> tuple[str, int]:
    """Return the key of a claim for a finish which has no delivery, and does at joins what can't be repeated."""
    if finish.joining.arrivals:
        first = finish.joining.arrivals[0]
        return f"arrival:{first.join_id}:{first.member}", 0
    if finish.record is not None:
        return f"outcome:{finish.record.id}", 0
    if finish.envelopes:
        sent, attempt = finish.envelopes[0].message.key
        return f"sent:{sent}", attempt
    # Should several do so, one release counts: the join then stays until it expires.
    joining = finish.joining
    joins = [
        *joining.released,
        *(each.join_id for each in joining.grown),
        *(each.join_id for each in joining.extended),
        *(f"{each.name}:{each.seen}" for each in joining.keys),
    ]
    return f"left:{joins[0]}", 0
