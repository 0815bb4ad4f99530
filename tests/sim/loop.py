"""Virtual time: an event loop that jumps to the next timer instead of waiting, and processes that run on it.

1. The same calls in the same order give the same run: nothing here looks at a real clock, a hash or an address.
2. A process that was killed executes nothing any more, not even a `finally`; one that is stopped goes on where it was.
3. Each process sees time by its own machine's clock, which may run fast or slow.
"""

import asyncio
import contextlib
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

MOST_SPINS = 2000


class Stuck(Exception):
    """Nothing is left that could ever happen."""


class Process:
    """A process of a machine: what runs in its context is its, down to the last callback."""

    def __init__(self, name: str, rate: float = 1.0, origin: float = 0.0) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        self.waiting: list[_Handle] = []
        """What fell due while it was stopped."""
        self.children: dict[object, Callable[[], None]] = {}
        """What the kernel does for each of its children and connections when it dies."""
        self.rate = rate
        """Seconds of its monotonic clock in a second of true time."""
        self.origin = origin
        """True time at which its machine was started."""

    def local(self, true: float) -> float:
        """Its monotonic clock at a moment of true time."""
        return (true - self.origin) * self.rate

    def true(self, local: float) -> float:
        """The moment at which its monotonic clock shows `local`."""
        return local / self.rate + self.origin

    def __repr__(self) -> str:
        return self.name


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current() -> Process | None:
    """The process that is executing; None: the world itself."""
    return _PROCESS.get()


class _Task(asyncio.Task[Any]):
    """asyncio keeps tasks in sets: their order must not hang on addresses."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Handle(asyncio.TimerHandle):
    """A call that is due. asyncio's own does a lot more, and there are thousands in a run."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Any, when: float) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        """None: it is the world's own."""
        self._when = when
        self._cancelled = False

    def __repr__(self) -> str:
        return f"<{self._callback!r} at {self._when}>"

    def cancel(self) -> None:
        """It is dropped when its time comes."""
        self._cancelled = True


class VirtualLoop(asyncio.BaseEventLoop):
    """Time stands still while anything can be done, then jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        """True time in seconds."""
        self.tasks: list[asyncio.Task[Any]] = []
        _Task._numbers = itertools.count()
        self.on_spin: Callable[[], None] = lambda: None
        """Called when much is done and no time passes: some process never waits."""
        self._due: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        """A heap; what is due at the same moment comes in the order in which it was asked for."""
        self._numbers = itertools.count()
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], context: Any = None
    ) -> asyncio.Task[Any]:
        task = _Task(coro, loop=loop, context=context)
        self.tasks.append(task)
        if len(self.tasks) > 4000:
            self.tasks = [t for t in self.tasks if not t.done()]
        return task

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def time(self) -> float:
        """Seconds, by the clock of whoever asks."""
        process = _PROCESS.get()
        return self.now if process is None else process.local(self.now)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        handle = _Handle(callback, args, contextvars.copy_context() if context is None else context, self.now)
        self._due.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        true = when if process is None else process.true(when)
        handle = _Handle(callback, args, contextvars.copy_context() if context is None else context, true)
        heapq.heappush(self._timers, (true, next(self._numbers), handle))
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call something of the world itself, after so much true time."""
        when = self.now + seconds
        handle = _Handle(callback, args, None, when)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def start(self, process: Process, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a process."""
        context = contextvars.Context()
        context.run(_PROCESS.set, process)
        return self.create_task(coro, context=context)

    def kill(self, process: Process) -> None:
        """End a process where it stands (SIGKILL); the kernel tidies up after it."""
        process.alive = False
        process.waiting.clear()
        for tidy in list(process.children.values()):
            tidy()
        process.children.clear()

    def go_on(self, process: Process) -> None:
        """End a stop (SIGCONT)."""
        process.stopped = False
        self._due.extend(process.waiting)
        process.waiting.clear()

    def run(self, until: float) -> None:
        """Let the world go on to a moment of true time."""
        timer = self.after(until - self.now, self.stop)
        self.run_forever()
        timer.cancel()

    def _run_once(self) -> None:
        """All of it, until `stop`."""
        due, timers, spins = self._due, self._timers, 0
        while not self._stopping:  # type: ignore[attr-defined]
            if not due:
                while timers and timers[0][2]._cancelled:
                    heapq.heappop(timers)
                if not timers:
                    raise Stuck("no process has anything left to do")
                if timers[0][0] > self.now:
                    self.now = timers[0][0]
                    spins = 0
            while timers and timers[0][0] <= self.now:
                due.append(heapq.heappop(timers)[2])
            spins += 1
            if spins > MOST_SPINS:
                spins = 0
                self.on_spin()
            for _ in range(len(due)):
                handle = due.popleft()
                if handle._cancelled:
                    continue
                context = handle._context
                if context is None:
                    handle._callback(*handle._args)
                    continue
                process = context.get(_PROCESS)
                if process is None or (process.alive and not process.stopped):
                    context.run(handle._callback, *handle._args)
                elif process.alive:
                    process.waiting.append(handle)

    def _process_events(self, event_list: Any) -> None:
        """There is no selector."""

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """The garbage collector must not start anything: what it finds, a killed process left behind."""

    def discard(self) -> None:
        """Drop all that still waits. Coroutines are closed in silence: their processes are dead."""
        for task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with contextlib.suppress(BaseException):
                    task.get_coro().close()
        self.tasks.clear()
        self._due.clear()
        self._timers.clear()
        self.close()
