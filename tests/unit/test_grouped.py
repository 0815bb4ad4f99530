import asyncio

import pytest
from holdfast.coordinator.grouped import TaskGroup, first, ungrouped


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("child")


async def grouped(*, in_body: bool) -> None:
    """Have a group whose child fails."""
    async with TaskGroup() as group:
        group.create_task(fail())
        if in_body:
            await asyncio.sleep(10)


@pytest.mark.parametrize("in_body", [False, True])
async def test_a_task_that_survives_its_groups_failure_can_wait_with_a_bound_after_that(in_body: bool) -> None:
    """On Python 3.11.2 the end of the bound was taken for a cancellation, and ended the task."""
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(ExceptionGroup) as caught:
        await grouped(in_body=in_body)
    assert str(first(caught.value)) == "child"
    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()


async def test_a_cancellation_from_outside_stays_one() -> None:
    asked = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            asked.set()

    async def work() -> None:
        async with TaskGroup() as group:
            group.create_task(slow())

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asked.is_set()


def test_of_a_group_the_first_error_is_raised_and_what_follows_from_it_is_no_group() -> None:
    def command() -> None:
        try:
            with ungrouped():
                asyncio.run(grouped(in_body=False))
        except ValueError:
            raise SystemExit(1) from None

    with pytest.raises(SystemExit):
        command()
