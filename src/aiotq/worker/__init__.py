"""Running tasks: intake, execution, commit, and the life of a worker, one file each."""

from .worker import Worker, WorkerOptions

__all__ = ["Worker", "WorkerOptions"]
