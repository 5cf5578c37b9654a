"""Every commit keeps its contract."""

from __future__ import annotations

from .commit_contract import CommitContract, OrderedContract


class TestCommit(CommitContract):
    pass


class TestOrderedCommit(OrderedContract):
    pass
