"""What is asked of SQS, over connections that aiobotocore keeps; its errors in our words (P7)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from ...core.values import value
from ...exceptions import ConnectionLost, NotConnected, OperationalError
from .address import Address
from .session import (
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
    made,
)

#: Messages in one request, of whatever kind. Source: Amazon SQS, "Message quotas".
AT_ONCE: Final = 10
_MISSING: Final = frozenset({"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})
#: What a message's handle is when somebody else has the message, or nobody.
_STALE: Final = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight"})
_THROTTLED: Final = frozenset({"RequestThrottled", "ThrottlingException", "Throttling", "OverLimit"})
_WHO_WE_ARE: Final = "a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class MissingQueue(OperationalError):
    """Raised when there is no such queue."""


@value
class Arrival:
    """A message that came: what stands in it, by which handle it is settled, and how often it came so far."""

    text: str
    handle: str
    count: int


@value
class Failure:
    """Why one message of a request was not taken. `is_ours`: it will never be."""

    code: str
    text: str
    is_ours: bool


class SqsClient:
    """Requests to one SQS; an async context manager, and of one loop."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            try:
                self._client = await stack.enter_async_context(made(self.address))
            except (BotoCoreError, ValueError) as exc:
                raise self._refusal(exc) from exc
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._client = None
        await self._stack.aclose()

    async def url_of(self, name: str) -> str:
        """Return the URL of the queue `name`.

        Raises:
            MissingQueue: there is none.
        """
        url: str = (await self._ask("get_queue_url", QueueName=name))["QueueUrl"]
        return url

    async def create(self, name: str, attributes: Mapping[str, str]) -> str:
        """Make the queue `name`; return its URL. There may be one with the same attributes."""
        url: str = (await self._ask("create_queue", QueueName=name, Attributes=attributes))["QueueUrl"]
        return url

    async def counts(self, url: str) -> tuple[int, int, int]:
        """Return about how many messages are ready, held, and delayed."""
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        found = (await self._ask("get_queue_attributes", QueueUrl=url, AttributeNames=names))["Attributes"]
        ready, held, delayed = (int(found[name]) for name in names)
        return ready, held, delayed

    async def receive(self, url: str, most: int, *, wait: int, hold: int) -> Sequence[Arrival]:
        """Take up to `most` messages (10 at most), waiting `wait` seconds for one; they are ours for `hold` seconds."""
        found = await self._ask(
            "receive_message",
            wait,
            QueueUrl=url,
            MaxNumberOfMessages=min(most, AT_ONCE),
            WaitTimeSeconds=wait,
            VisibilityTimeout=hold,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return [
            Arrival(each["Body"], each["ReceiptHandle"], int(each["Attributes"]["ApproximateReceiveCount"]))
            for each in found.get("Messages", ())
        ]

    async def send(self, url: str, messages: Sequence[Mapping[str, Any]]) -> Mapping[int, Failure]:
        """Send up to ten messages; return what was not taken, by its place."""
        return await self._batch("send_message_batch", url, messages)

    async def delete(self, url: str, handles: Sequence[str]) -> Mapping[int, Failure]:
        """Delete up to ten messages that are ours; return what was not deleted, by its place."""
        return await self._batch("delete_message_batch", url, [{"ReceiptHandle": handle} for handle in handles])

    async def hold(self, url: str, handles: Sequence[tuple[str, int]]) -> Mapping[int, Failure]:
        """Have up to ten messages for so many more seconds, 0: give them back; return where that failed, by place."""
        entries = [{"ReceiptHandle": handle, "VisibilityTimeout": seconds} for handle, seconds in handles]
        return await self._batch("change_message_visibility_batch", url, entries)

    async def _batch(self, request: str, url: str, entries: Sequence[Mapping[str, Any]]) -> Mapping[int, Failure]:
        numbered = [{"Id": str(place), **entry} for place, entry in enumerate(entries)]
        answer = await self._ask(request, QueueUrl=url, Entries=numbered)
        return {
            int(each["Id"]): Failure(each["Code"], each.get("Message", each["Code"]), bool(each["SenderFault"]))
            for each in answer.get("Failed", ())
        }

    async def _ask(self, request: str, wait: float = 0.0, /, **said: Any) -> dict[str, Any]:
        if self._client is None:
            raise OperationalError(f"{self.address.shown}: the broker is not open")
        try:
            async with asyncio.timeout(wait + self.address.reply_timeout):
                answer: dict[str, Any] = await getattr(self._client, request)(**said)
                return answer
        except TimeoutError as exc:
            text = f"{self.address.shown}: no answer within {self.address.reply_timeout:g} s"
            raise ConnectionLost(text) from exc
        except ClientError as exc:
            raise self._answered(exc) from exc
        except (EndpointConnectionError, ConnectTimeoutError) as exc:
            raise NotConnected(f"{self.address.shown}: {exc}") from exc
        except HTTPClientError as exc:
            raise ConnectionLost(f"{self.address.shown}: {exc}") from exc
        except BotoCoreError as exc:
            raise self._refusal(exc) from exc

    def _answered(self, exc: Any) -> OperationalError:
        """Return the error for what SQS answered."""
        said, status = exc.response.get("Error", {}), exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(said.get("Code", "")).removeprefix("com.amazonaws.sqs#")
        text = f"{self.address.shown}: {code}: {said.get('Message', '')}"
        if code in _MISSING:
            return MissingQueue(text)
        if status >= 500 or code in _THROTTLED:
            return ConnectionLost(text)
        if "AccessDenied" in code:
            return OperationalError(f"{text} (the actions that are needed: docs/guides/sqs.md)")
        return OperationalError(text)

    def _refusal(self, exc: Exception) -> OperationalError:
        """Return the error for what aiobotocore itself can't do."""
        text = f"{self.address.shown}: {exc}"
        match exc:
            case NoRegionError():
                return OperationalError(f"{text} Name one: ?region=eu-west-1, or AWS_DEFAULT_REGION")
            case NoCredentialsError() | PartialCredentialsError() | CredentialRetrievalError():
                return OperationalError(f"{text}. What there may be: {_WHO_WE_ARE}")
            case ProfileNotFound():
                return OperationalError(f"{text}: it is looked for in ~/.aws/config")
            case _:
                return OperationalError(text)


def is_stale(failure: Failure) -> bool:
    """Whether a message is not held by the handle that it was named by."""
    return failure.code.removeprefix("com.amazonaws.sqs#") in _STALE or (
        failure.code == "InvalidParameterValue" and "expired" in failure.text
    )
