"""Where an SQS is: region, credentials, and how its queues are made, as a URL says it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from ...core.net import urls

SCHEME: Final = "sqs"
_OPTIONS: Final = (
    *("region", "profile", "role", "endpoint", "prefix"),
    *("fifo", "priorities", "wait", "connect_timeout", "reply_timeout"),
)
#: Seconds of the longest long poll there is.
LONGEST_WAIT: Final = 20
_PREFIX: Final = re.compile(r"[a-zA-Z0-9_-]{0,20}")
_ROLE: Final = re.compile(r"arn:[a-z-]+:iam::\d{12}:role/.+")
_ENDPOINT: Final = re.compile(r"https?://[^/?#\s]+/?")


@dataclass(frozen=True, slots=True)
class Address:
    """An account's SQS in one region, as its URL describes it.

        sqs://?region=eu-west-1
        sqs://ACCESS_KEY:SECRET@?region=eu-west-1&prefix=proj-
        sqs://?region=eu-west-1&profile=work&role=arn:aws:iam::123456789012:role/workers
        sqs://?endpoint=http://localhost:4566

    What is not given is found where Amazon's own tools find it. `wait`: seconds of one long poll.
    """

    shown: str = field(compare=False)
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    region: str | None = None
    profile: str | None = None
    role: str | None = None
    endpoint: str | None = None
    prefix: str = ""
    is_fifo: bool = False
    has_priorities: bool = False
    wait: int = LONGEST_WAIT
    connect_timeout: float = 5.0
    reply_timeout: float = 10.0


def parse(url: str) -> Address:
    """Return the address that `url` describes.

    Raises:
        ValueError: it does not describe one; the text says why, without the secret key.
    """
    parts = urls.split(url, (SCHEME,))
    if parts.hosts or parts.path.strip("/"):
        raise ValueError(
            f"it has no host and no path: {parts.hosts + parts.path!r} can only be an option "
            "(?region=eu-west-1, ?endpoint=http://localhost:4566)"
        )
    if bool(parts.username) != bool(parts.password):
        raise ValueError("an access key and its secret come together: sqs://ACCESS_KEY:SECRET@")
    options = urls.options_of(parts.query, _OPTIONS, encrypted=None)
    for name, form, what in (
        ("prefix", _PREFIX, "at most 20 letters (a to z), digits, - and _"),
        ("role", _ROLE, "the ARN of a role (arn:aws:iam::123456789012:role/workers)"),
        ("endpoint", _ENDPOINT, "http:// or https://, a host and a port"),
    ):
        if name in options and not form.fullmatch(options[name]):
            raise ValueError(f"{name} must be {what}, not {options[name]!r}")
    is_fifo, has_priorities = (
        urls.choice(options, name, ("false", "true")) == "true" for name in ("fifo", "priorities")
    )
    if is_fifo and has_priorities:
        raise ValueError("fifo and priorities don't go together: a FIFO queue keeps one order")
    wait = options.get("wait", str(LONGEST_WAIT))
    if not wait.isdecimal() or not 1 <= int(wait) <= LONGEST_WAIT:
        raise ValueError(f"wait must be whole seconds from 1 to {LONGEST_WAIT}, not {wait!r}")
    region = options.get("region")
    return Address(
        shown=f"sqs://?region={region}" if region else "sqs://",
        access_key=unquote(parts.username) or None,
        secret_key=unquote(parts.password) or None,
        region=region,
        profile=options.get("profile"),
        role=options.get("role"),
        endpoint=options.get("endpoint"),
        prefix=options.get("prefix", ""),
        is_fifo=is_fifo,
        has_priorities=has_priorities,
        wait=int(wait),
        connect_timeout=urls.seconds(options, "connect_timeout", 5.0),
        reply_timeout=urls.seconds(options, "reply_timeout", 10.0),
    )
