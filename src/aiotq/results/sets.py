"""The results of many calls: `ResultSet`, and `GroupResult`, which is nested as its group is."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar, Unpack, cast, overload

from .. import states
from ..core.celery_names import RESULTS, knows
from ..core.inside import App, core_of
from ..exceptions import CallError, ResultTimeout
from ..tasks.request import running_request
from .get_options import GetOptions, check_options, check_timeout
from .handle import AsyncResult, progress_in_task, seen_graph, why_waiting
from .reader import Readers, default_readers
from .records import Record
from .sync_result import SyncGroupResult, SyncResultSet
from .waiting import warned_when_long

if TYPE_CHECKING:
    from ..graph.graph import Graph
    from .progress import Progress

R_co = TypeVar("R_co", covariant=True)
Leaf_co = TypeVar("Leaf_co", covariant=True)


#: Least seconds for which the shape of a saved group is kept.
_SHAPE_KEPT: Final = 86_400.0


@knows(RESULTS)
class Results(Generic[R_co, Leaf_co]):
    """The base of `ResultSet` and `GroupResult`: the results of many calls."""

    _readers: Readers

    def leaves(self) -> Sequence[AsyncResult[Leaf_co]]:
        """Return the results of all its tasks in order, those of nested groups among them."""
        raise NotImplementedError

    def _tolerated(self) -> frozenset[str]:
        """Return the ids of tasks whose failure is not raised."""
        return frozenset()

    def values(self, *, propagate: bool) -> list[Any]:
        """Return the values, now that all tasks have ended."""
        return [result.seen() for result in self.leaves()]

    def __await__(self) -> Generator[Any, Any, list[R_co]]:
        return self.get().__await__()

    @overload
    async def get(
        self, timeout: float | None = ..., *, propagate: Literal[True] = ..., **options: Unpack[GetOptions]
    ) -> list[R_co]: ...
    @overload
    async def get(
        self, timeout: float | None = ..., *, propagate: bool, **options: Unpack[GetOptions]
    ) -> list[R_co | BaseException]: ...
    async def get(
        self, timeout: float | None = None, *, propagate: bool = True, **options: Unpack[GetOptions]
    ) -> list[R_co] | list[R_co | BaseException]:
        """Return all values in order, waiting up to `timeout` seconds for the last.

        The first failure that comes in is raised at once; `propagate=False` puts exceptions in the list instead.
        `callback(task_id, value)` is called for each task that has ended, in the order in which they end.
        `follow_parents` and `interval` are as for `AsyncResult.get`.

        Raises:
            ResultTimeout: not all came in time; the tasks go on.
            InvalidOption: an option of Celery's that has no meaning here; the text says what to do instead.
        """
        __tracebackhide__ = True
        error = await self.awaited(timeout, propagate, options)
        if error is not None:  # raised here, with no further frame of ours
            raise error
        return self.values(propagate=propagate)

    join = get

    async def wait(
        self, timeout: float | None = None, *, propagate: bool = False, **options: Unpack[GetOptions]
    ) -> None:
        """Return when all have ended; with `propagate` raise the first failure. `options` are as for `get`.

        Raises:
            ResultTimeout: not all ended within `timeout` seconds; the tasks go on.
        """
        __tracebackhide__ = True
        error = await self.awaited(timeout, propagate, options)
        if error is not None:
            raise error

    async def awaited(self, timeout: float | None, propagate: bool, options: GetOptions) -> BaseException | None:
        """Wait for all; return the first failure if that is to be raised."""
        check_timeout(timeout)
        check_options(options)
        leaves, tolerated = self.leaves(), self._tolerated()
        doubtful = [result.id for result in leaves if result.may_be_unknown] if timeout is None else []
        limit = asyncio.timeout(timeout)
        try:
            with warned_when_long(doubtful):
                async with limit, aclosing(self.as_completed()) as completed:
                    async for result in completed:
                        raises = propagate and result.id not in tolerated
                        if (error := await result.tell(options, propagate=raises)) is not None:
                            return error
        except TimeoutError:
            if not limit.expired():  # a callback raised it
                raise
            missing = [result for result in leaves if not result.is_known]
            why = await why_waiting(missing, timeout or 0)
            raise ResultTimeout(
                f"{len(missing)} of {len(leaves)} results did not come within {timeout:g} s{why}"
            ) from None
        return None

    async def as_completed(self) -> AsyncGenerator[AsyncResult[Leaf_co], None]:
        """Yield the result of each task when it has ended; awaiting it then returns at once."""
        leaves, pending = self.leaves(), dict[str, list[AsyncResult[Leaf_co]]]()
        for result in leaves:
            if result.is_known:
                yield result
            else:
                pending.setdefault(result.id, []).append(result)
        if not pending:
            return
        reader = await self._readers.reader()
        elsewhere = [found for result in leaves for found in result.elsewhere(reader) if found in pending]
        slot, waited = running_request.get().slot, tuple(pending)
        if slot is not None:
            slot.lend(*waited)
        try:
            async with reader.waiting.records(waited, elsewhere=elsewhere) as records:
                while pending:
                    for record in await records.take():
                        if states.is_ready(record.state):
                            for result in pending.pop(record.id, ()):
                                result.see(reader.document(record, result.task_name))
                                yield result
        finally:
            if slot is not None:
                slot.take_back_now(*waited)

    async def completed_count(self) -> int:
        """Return how many of the tasks have ended with a value."""
        return sum(state == states.SUCCESS for state in await self.states())

    async def ready(self) -> bool:
        """Whether all tasks have ended."""
        await self.states()
        return all(result.is_known for result in self.leaves())

    async def successful(self) -> bool:
        """Whether all tasks have ended with a value."""
        return all(state == states.SUCCESS for state in await self.states())

    async def failed(self) -> bool:
        """Whether a task has failed."""
        return any(state == states.FAILURE for state in await self.states())

    async def waiting(self) -> bool:
        """Whether a task has not ended yet."""
        return not await self.ready()

    async def states(self) -> list[str]:
        """Return the state of each task, in one request."""
        leaves, found = self.leaves(), dict[str, str]()
        if unknown := [result for result in leaves if result.document is None]:
            reader = await self._readers.reader()
            records = await reader.records.get([result.id for result in unknown])
            present = {record.id: record for record in records if record is not None}
            found = {task_id: record.state for task_id, record in present.items()}
            for result in unknown:
                if states.is_ready(found.get(result.id, states.PENDING)):
                    result.see(reader.document(present[result.id], result.task_name))
        return [found.get(each.id, states.PENDING) if each.document is None else each.document.state for each in leaves]

    async def forget(self) -> None:
        """Delete the stored results and states of the tasks."""
        ids = [result.id for result in self.leaves() if not result.is_eager]
        if ids:
            await (await self._readers.reader()).forget(ids)

    async def revoke(self, *, terminate: bool = False) -> None:
        """Revoke all of the calls; see `AsyncResult.revoke`."""
        await asyncio.gather(*(result.revoke(terminate=terminate) for result in self.leaves()))


class ResultSet(Results[R_co, R_co], Sequence[AsyncResult[R_co]]):
    """The results of many calls, in the order of the calls. Awaiting it returns the list of their values.

    ```python
    results = await app.send_many(add.s(i, i) for i in range(10))
    assert await results == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    ```
    """

    def __init__(self, results: Iterable[AsyncResult[R_co]], app: App[Readers] | None = None) -> None:
        self.results = tuple(results)
        self._readers = default_readers() if app is None else core_of(app)

    @overload
    def __getitem__(self, index: int) -> AsyncResult[R_co]: ...
    @overload
    def __getitem__(self, index: slice) -> ResultSet[R_co]: ...
    def __getitem__(self, index: int | slice) -> AsyncResult[R_co] | ResultSet[R_co]:
        if isinstance(index, slice):
            return ResultSet(self.results[index], self._readers)
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        return f"<ResultSet: {len(self)} results>"

    @property
    def sync(self) -> SyncResultSet[R_co]:
        """These results for code without a loop."""
        return SyncResultSet(self, self._readers.bridge)

    def leaves(self) -> Sequence[AsyncResult[R_co]]:
        """Return its results."""
        return self.results


class GroupResult(Results[R_co, Any]):
    """The result of a group: its members' results, nested as the group is. Awaiting it returns the list of values.

    ```python
    result = await group(add.s(i, i) for i in range(3))()
    assert await result == [0, 2, 4]
    ```
    """

    def __init__(
        self,
        group_id: str,
        results: Sequence[AsyncResult[Any] | GroupResult[Any]],
        app: App[Readers] | None = None,
        *,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
        when_failed: Sequence[str] = (),
    ) -> None:
        self.id = group_id
        self.results = list(results)
        self.parent = parent
        self._readers = default_readers() if app is None else core_of(app)
        #: For each member the effect of its failure on the group: "fail", "skip" or "continue".
        self.when_failed = tuple(when_failed) or ("fail",) * len(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[Any] | GroupResult[Any]]:
        return iter(self.results)

    def __getitem__(self, index: int) -> AsyncResult[Any] | GroupResult[Any]:
        return self.results[index]

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(result.id for result in self.results)}]>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and (self.id, self.results) == (other.id, other.results)

    def __hash__(self) -> int:
        return hash(self.id)

    def as_tuple(self) -> tuple[Any, ...]:
        """Return ids and nesting in Celery's form: `((id, parent), [members])`."""
        parent = None if self.parent is None else self.parent.as_tuple()
        return (self.id, parent), [each.as_tuple() for each in self.results]

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the app out: an unpickled result belongs to the app of the process that unpickles it."""
        return _unpickled, (shape_of_result(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that belongs to the same app."""
        copied = copy.copy(self)
        copied.results = list(self.results)
        return copied

    @property
    def sync(self) -> SyncGroupResult[R_co]:
        """This result for code without a loop."""
        return SyncGroupResult(self, self._readers.bridge)

    @property
    def children(self) -> list[AsyncResult[Any] | GroupResult[Any]]:
        """The members' results."""
        return self.results

    @property
    def members(self) -> ResultSet[Any]:
        """The results of all its tasks in order, including those of nested groups."""
        return ResultSet(self.leaves(), self._readers)

    async def graph(self) -> Graph:
        """Return its workflow with the states of the tasks; see `AsyncResult.graph`."""
        return await seen_graph(self, self._readers)

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """Yield how many of its tasks, and of those before it, have ended; see `AsyncResult.progress`."""
        async with aclosing(progress_in_task(self, self._readers)) as changes:
            async for now in changes:
                yield now

    async def forget(self) -> None:
        """Delete the stored results of its tasks, and its own shape if it was saved."""
        ids = [result.id for result in self.leaves() if not result.is_eager]
        if ids or not self.results:
            await (await self._readers.reader()).forget([self.id, *ids])

    async def save(self) -> None:
        """Store its shape for as long as results are kept, so that `restore` finds it by its id."""
        reader = await self._readers.reader()
        now = self._readers.now()
        expires = now + max(reader.result_expires, _SHAPE_KEPT)
        body = reader.codec.encode(self.id, states.SUCCESS, shape_of_result(self), done_at=now)
        await reader.records.forget([self.id])  # another group may have been saved under the id
        await reader.records.put([Record(self.id, states.SUCCESS, body, reader.codec.content_type, expires)])

    @classmethod
    async def restore(cls, group_id: str, app: App[Readers] | None = None) -> Self | None:
        """Return the group that was saved under `group_id`; None if there is none or it has expired."""
        readers = default_readers() if app is None else core_of(app)
        reader = await readers.reader()
        (record,) = await reader.records.get([group_id])
        if record is None:
            return None
        shape = reader.codec.decode(record).result
        if not is_shape(shape):
            raise CallError(f"{group_id} is the id of a task, not of a group that was saved")
        return cast(Self, result_of_shape(cast("dict[str, Any]", shape), readers))

    def leaves(self) -> Sequence[AsyncResult[Any]]:
        """Return the results of all its tasks in order, including those of nested groups."""
        return [leaf for result in self.results for leaf in leaves_of(result)]

    def _tolerated(self) -> frozenset[str]:
        """Return the ids of tasks whose failure does not fail the group."""
        found: set[str] = set()
        for result, when_failed in zip(self.results, self.when_failed, strict=True):
            if when_failed != "fail":
                found.update(leaf.id for leaf in leaves_of(result))
            elif isinstance(result, GroupResult):
                found |= result._tolerated()
        return frozenset(found)

    def values(self, *, propagate: bool) -> list[Any]:
        return self._nested("fail" if propagate else "continue")

    def _nested(self, otherwise: str) -> list[Any]:
        """Return the values; `otherwise` applies to failed members without a policy of their own."""
        values: list[Any] = []
        for result, own in zip(self.results, self.when_failed, strict=True):
            when_failed = otherwise if own == "fail" else own
            if isinstance(result, GroupResult):
                values.append(result._nested(when_failed))
            elif when_failed != "skip" or (result.document is not None and result.document.state == states.SUCCESS):
                values.append(result.seen())
        return values


def leaves_of(result: AsyncResult[Any] | GroupResult[Any]) -> Sequence[AsyncResult[Any]]:
    """Return the results of the tasks of `result`: itself, or those of a group."""
    return [result] if isinstance(result, AsyncResult) else result.leaves()


def _unpickled(shape: Mapping[str, Any]) -> AsyncResult[Any] | GroupResult[Any]:
    return result_of_shape(shape, default_readers())


def is_shape(given: object) -> bool:
    """Whether `given` has the form in which `GroupResult.save` stores a group."""
    return isinstance(given, dict) and {"id", "parent", "results", "allow_failure"} == set(
        cast("dict[str, Any]", given)
    )


def shape_of_result(result: AsyncResult[Any] | GroupResult[Any]) -> Any:
    """Return ids and nesting of `result` as plain values."""
    if isinstance(result, AsyncResult) and result.is_eager:
        raise CallError(f"{result!r} has ended, and nobody else can look for it: give its value")
    parent = None if result.parent is None else shape_of_result(result.parent)
    if not isinstance(result, GroupResult):
        return {"id": result.id, "parent": parent, **({"task": result.task_name} if result.task_name else {})}
    return {
        "id": result.id,
        "parent": parent,
        "results": [shape_of_result(each) for each in result.results],
        "allow_failure": list(result.when_failed),
    }


def result_of_shape(shape: Mapping[str, Any], readers: Readers) -> AsyncResult[Any] | GroupResult[Any]:
    """Return the handle that `shape_of_result` was made of."""
    parent = None if shape.get("parent") is None else result_of_shape(shape["parent"], readers)
    if "results" not in shape:
        name = shape.get("task")
        return AsyncResult(str(shape["id"]), readers, task_name=name if isinstance(name, str) else None, parent=parent)
    results = [result_of_shape(each, readers) for each in shape["results"]]
    return GroupResult(str(shape["id"]), results, readers, parent=parent, when_failed=shape.get("allow_failure", ()))
