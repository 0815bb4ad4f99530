"""How failing commands reach those who asked. The failure is a real one: a machine without zfs(8)."""

import asyncio
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from holdfast.agent.ports import VolumesError
from holdfast.agent.storage.zfs import command
from holdfast.agent.storage.zfs.volumes import ZfsVolumes


def now() -> datetime:
    return datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with setpriv and sleep alone; a test may put a command named zfs there."""
    for name in ("setpriv", "sleep", "sh"):
        found = shutil.which(name)
        assert found, f"{name} is not installed"
        (tmp_path / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


async def test_a_look_that_fails_says_so_as_any_other_command_does(tools: Path) -> None:
    """It runs two commands at once: their caller must not get a group of errors that nobody is prepared for."""
    with pytest.raises(VolumesError, match="zfs"):
        await ZfsVolumes(now).scan()


async def test_one_guests_bad_snapshot_name_does_not_fail_the_holds_of_others(tools: Path) -> None:
    volumes = ZfsVolumes(now)
    outcomes = await asyncio.gather(volumes.hold(["tank/a@b c"]), volumes.hold(["tank/a@x"]), return_exceptions=True)
    assert [type(o) for o in outcomes] == [ValueError, VolumesError], "the second reached zfs, which is not there"


def children() -> list[str]:
    """Of this process, zombies included."""
    return Path("/proc/self/task", str(os.getpid()), "children").read_text().split()


def stuck(tools: Path) -> None:
    """A `zfs` that never ends, as on a suspended pool."""
    (tools / "zfs").symlink_to(tools / "sleep")


async def test_a_command_that_hangs_is_killed_reaped_and_told(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck(tools)
    monkeypatch.setattr(command, "TIMEOUT", 0.3)
    started = time.monotonic()
    with pytest.raises(VolumesError, match="suspended"):
        await command.run("60")
    assert time.monotonic() - started < 5
    assert children() == []


async def test_who_is_cancelled_leaves_no_child_behind(tools: Path) -> None:
    stuck(tools)
    running = asyncio.create_task(command.run("60"))
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert children() == []
