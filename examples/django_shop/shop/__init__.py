"""The project. The app is imported with it, so that `@shared_task` belongs to it in every process."""

from .aiotq import app

__all__ = ["app"]
