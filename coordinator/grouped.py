"""Task groups whose failure can be survived: what they leave behind, and what is told of it."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class TaskGroup(asyncio.TaskGroup):
    """asyncio's, without the request to be cancelled that it leaves with the task that had it when a child failed.

    Before Python 3.13 it counts as one from outside (`Task.cancelling`). Where that task goes on, the next
    `asyncio.timeout` of Python 3.11.2, which Debian 12 has, takes its own end for a cancellation, and the task is gone.
    """

    _parent_cancel_requested: bool

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        task, taken_back = asyncio.current_task(), self._parent_cancel_requested
        before = task.cancelling() if task else 0
        try:
            await super().__aexit__(kind, error, where)
        finally:
            asked = self._parent_cancel_requested and not taken_back
            if sys.version_info < (3, 13) and task and asked and task.cancelling() > before:
                task.uncancel()


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the first error of a group instead of the group.

    For a group, Python 3.11.2 (Debian 12) makes a group of what is raised in `except*` as well: an exit code, say.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        raise first(group) from group


def first(error: BaseException) -> BaseException:
    """The first error in a group of groups; operators are told the one that began it. Any other error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
