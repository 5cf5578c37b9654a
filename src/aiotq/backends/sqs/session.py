# pyright: basic, reportMissingTypeStubs=false
"""A client of aiobotocore, made as an address says it. aiobotocore has no types: all that is its own is here."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioAssumeRoleCredentialFetcher, AioDeferredRefreshableCredentials
from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from .address import Address

__all__ = [
    "BotoCoreError",
    "ClientError",
    "ConnectTimeoutError",
    "CredentialRetrievalError",
    "EndpointConnectionError",
    "HTTPClientError",
    "NoCredentialsError",
    "NoRegionError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "made",
]

#: Connections of one process: each long poll has one for up to 20 s.
_CONNECTIONS: Final = 100


def made(address: Address) -> Any:
    """Return a client for SQS, an async context manager.

    Raises:
        BotoCoreError, ValueError: what the address says can't be used.
    """
    session: Any = AioSession(profile=address.profile)
    if address.role is not None:
        session._credentials = _of_role(session, address, address.role)
    elif address.access_key is not None:
        session.set_credentials(address.access_key, address.secret_key)
    settings: Any = AioConfig(
        connect_timeout=address.connect_timeout,
        read_timeout=address.wait + address.reply_timeout,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 2},
    )
    return session.create_client("sqs", region_name=address.region, endpoint_url=address.endpoint, config=settings)


def _of_role(session: Any, address: Address, role: str) -> Any:
    """Return credentials of `role`, which are asked for with those that there are, and again before they end."""

    async def asked() -> Any:
        source: Any = AioSession(profile=address.profile)
        if address.access_key is not None:
            source.set_credentials(address.access_key, address.secret_key)
        credentials = await source.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        fetcher: Any = AioAssumeRoleCredentialFetcher(
            client_creator=partial(session.create_client, region_name=address.region),
            source_credentials=credentials,
            role_arn=role,
        )
        return await fetcher.fetch_credentials()

    return AioDeferredRefreshableCredentials(refresh_using=asked, method="assume-role")
