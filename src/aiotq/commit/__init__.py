"""What a finished task does to the world, as one step (P3): one file a pair of broker and store, one contract."""

from .committer import COMMITTED, LEASE_LOST, Admission, Answer, Committed, Committer, Finish, LostLease

__all__ = ["COMMITTED", "LEASE_LOST", "Admission", "Answer", "Committed", "Committer", "Finish", "LostLease"]
