"""Amazon SQS as broker."""

from ...exceptions import MissingLibrary

try:
    import aiobotocore as _aiobotocore  # noqa: F401  # pyright: ignore[reportUnusedImport, reportMissingTypeStubs]
except ImportError as exc:
    raise MissingLibrary(
        f"a sqs:// URL needs aiobotocore, and it can't be loaded ({exc}): pip install 'aiotq[sqs]'"
    ) from exc
