"""What the processes log goes into the transcript; structlog's own way from call to output is too long for that."""

import functools
import traceback
from collections.abc import Callable
from typing import Any, Self

import structlog

from .checks import Checks
from .cluster import Cluster
from .loop import current

Take = Callable[[str, dict[str, object]], None]


class _Logger:
    """Stands in for structlog's bound logger."""

    __slots__ = ("_bound", "_failed", "_take")

    def __init__(self, take: Take, failed: Take, logger: object, processors: object, context: dict[str, Any]) -> None:
        self._take = take
        self._failed = failed
        self._bound = context

    def bind(self, **more: object) -> Self:
        return type(self)(self._take, self._failed, None, None, {**self._bound, **more})

    def info(self, event: str, **details: object) -> None:
        self._take(event, {**self._bound, **details})

    debug = warning = error = info

    def exception(self, event: str, **details: object) -> None:
        self._failed(event, {**self._bound, **details})


def listen(cluster: Cluster, checks: Checks) -> None:
    """Have all that is logged from now on told to one run's transcript, and failures to its checks."""
    world = cluster.world

    def take(event: str, details: dict[str, object]) -> None:
        if world.traced:
            process = current()
            world.tell(process.name if process is not None else "?", event, **details)

    def failed(event: str, details: dict[str, object]) -> None:
        process = current()
        if process is not None:  # else the run is over, and what waited is being dropped
            said = {**details, "exception": traceback.format_exc(limit=-4)}
            checks.logged(process.name, event, said)
            take(event, said)

    made = functools.partial(_Logger, take, failed)
    structlog.configure(wrapper_class=made, cache_logger_on_first_use=False)  # type: ignore[arg-type]
