"""Child processes that run CPU-bound tasks."""
