"""The commit of a finished task as one step (P3): its contract, and the commit of any broker with any ledger."""

from .committer import COMMITTED, LEASE_LOST, Admission, Answer, Committed, Committer, Finish, LostLease

__all__ = ["COMMITTED", "LEASE_LOST", "Admission", "Answer", "Committed", "Committer", "Finish", "LostLease"]
