"""Guests stand still and go on: a real QEMU that computes, and real processes in a real cgroup."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast.agent.guests.pauser import Pauser, Places
from holdfast.agent.guests.qmp import Monitor
from holdfast.agent.ports import GuestHere, PauseRefused

VM = GuestHere(101, "qemu", ())
CONTAINER = GuestHere(102, "lxc", ())
_CHATTER = bytes.fromhex("ba f8 03 ee fe c0 eb fb").ljust(510, b"\0") + b"\x55\xaa"
"""A boot sector: mov dx, COM1; again: out dx, al; inc al; jmp again."""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """As on a node; the cgroups are in whatever hierarchy of version 2 this machine has."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    unified = next(m[1] for m in mounts if m[2] == "cgroup2")
    return Places(str(tmp_path / "{vmid}.qmp"), f"{unified}/holdfast-{os.getpid()}-{{vmid}}", tmp_path / "paused")


@pytest.fixture
def vm(installed: None, tmp_path: Path) -> Iterator[Path]:
    """A VM that writes to its serial line as long as it runs; the file that it writes to."""
    (tmp_path / "boot.img").write_bytes(_CHATTER)
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-no-user-config"]
    argv += ["-drive", f"file={tmp_path}/boot.img,format=raw,if=ide", "-serial", f"file:{tmp_path}/serial"]
    argv += ["-qmp", f"unix:{tmp_path}/101.qmp,server=on,wait=off"]
    argv += ["-qmp", f"unix:{tmp_path}/other.qmp,server=on,wait=off"]
    process = subprocess.Popen(argv)
    try:
        _wait(lambda: _goes_on(tmp_path / "serial"), "the VM runs")
        yield tmp_path / "serial"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def container(places: Places, tmp_path: Path) -> Iterator[Path]:
    """A process that writes to a file, in a cgroup of its own; the file."""
    cgroup = Path(places.cgroup.format(vmid=102))
    (cgroup / "inner").mkdir(parents=True)
    script = "import sys, time\nwhile True:\n print('x', flush=True, file=open(sys.argv[1], 'a'))\n time.sleep(0.001)"
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "written"])
    try:
        (cgroup / "inner" / "cgroup.procs").write_text(str(process.pid))
        _wait(lambda: _goes_on(tmp_path / "written"), "the container runs")
        yield tmp_path / "written"
    finally:
        (cgroup / "cgroup.freeze").write_text("0")
        process.kill()
        process.wait()
        _wait(lambda: not (cgroup / "inner" / "cgroup.procs").read_text(), "the cgroup is empty")
        (cgroup / "inner").rmdir()
        cgroup.rmdir()


def _wait(what: Callable[[], bool], why: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s: {why}"
        time.sleep(0.01)


def _goes_on(file: Path) -> bool:
    if not file.exists():
        return False
    before = file.stat().st_size
    time.sleep(0.1)
    return file.stat().st_size > before


def _pauser(places: Places, bound: float = 5.0) -> Pauser:
    return Pauser(places, bound)


async def _paused_and_resumed(places: Places, guest: GuestHere, written: Path) -> None:
    async with _pauser(places).pause(guest) as pause:
        assert not _goes_on(written), "it writes nothing while paused"
        assert await pause.resume() is None
        assert 0.05 < pause.seconds < 5
    assert _goes_on(written)
    assert not list(places.marks.glob("*"))


async def test_a_vm_writes_nothing_while_it_is_paused_and_then_goes_on(places: Places, vm: Path) -> None:
    await _paused_and_resumed(places, VM, vm)


async def test_a_container_writes_nothing_while_it_is_paused_and_then_goes_on(places: Places, container: Path) -> None:
    await _paused_and_resumed(places, CONTAINER, container)


@pytest.mark.parametrize("kind", ["vm", "container"])
async def test_a_pause_that_outlasts_its_bound_is_over_and_does_not_count(
    places: Places, kind: str, request: pytest.FixtureRequest
) -> None:
    written: Path = request.getfixturevalue(kind)
    async with _pauser(places, 0.3).pause(VM if kind == "vm" else CONTAINER) as pause:
        await asyncio.sleep(0.6)
        assert _goes_on(written), "it goes on by itself"
        assert await pause.resume() == "the snapshots were not taken within the bound"
        assert pause.seconds < 0.6


_AGENT = """
import asyncio, sys
from pathlib import Path
from holdfast.agent.guests.pauser import Pauser, Places
from holdfast.agent.ports import GuestHere

async def main():
    places = Places(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    async with Pauser(places, 2.0).pause(GuestHere(int(sys.argv[4]), sys.argv[5], ())):
        print("paused", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def _agent_that_pauses(places: Places, guest: GuestHere) -> subprocess.Popen[str]:
    argv = [places.qmp, places.cgroup, str(places.marks), str(guest.vmid), guest.kind]
    argv = [sys.executable, "-c", textwrap.dedent(_AGENT), *argv]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "paused\n"
    return process


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["vm", "container"])
def test_a_guest_goes_on_when_the_agent_is_killed_or_stopped(
    places: Places, kind: str, sign: signal.Signals, request: pytest.FixtureRequest
) -> None:
    written: Path = request.getfixturevalue(kind)
    agent = _agent_that_pauses(places, VM if kind == "vm" else CONTAINER)
    try:
        assert not _goes_on(written)
        agent.send_signal(sign)
        _wait(lambda: _goes_on(written), "it goes on", 2.5)
        _wait(lambda: not list(places.marks.glob("*")), "no mark is left")
    finally:
        agent.kill()
        agent.communicate()


@pytest.mark.parametrize("kind", ["vm", "container"])
async def test_a_pause_whose_process_is_killed_is_found_and_ended(
    places: Places, kind: str, request: pytest.FixtureRequest
) -> None:
    written: Path = request.getfixturevalue(kind)
    async with _pauser(places, 30.0).pause(VM if kind == "vm" else CONTAINER) as pause:
        _kill_the_child()
        assert not _goes_on(written), "nobody has resumed it yet"
        assert await pause.resume() == "the process that paused it was killed"
    assert _goes_on(written)


def test_the_agents_next_life_resumes_what_was_left_paused(places: Places, container: Path) -> None:
    agent = _agent_that_pauses(places, CONTAINER)
    os.killpg(_child_of(agent.pid), signal.SIGKILL)
    agent.kill()
    agent.communicate()
    assert not _goes_on(container)
    asyncio.run(_pauser(places).thaw_all())
    assert _goes_on(container)
    assert not list(places.marks.glob("*"))


@pytest.mark.parametrize("commands", [["cont"], ["cont", "stop"]])
async def test_a_vm_that_somebody_resumes_meanwhile_was_not_paused_all_the_time(
    places: Places, vm: Path, commands: list[str]
) -> None:
    async with _pauser(places).pause(VM) as pause:
        with contextlib.closing(Monitor(str(vm.with_name("other.qmp")), 5)) as other:
            for command in commands:
                other.execute(command, time.monotonic() + 5)
        assert await pause.resume() == "somebody resumed the VM meanwhile"


async def test_a_container_that_somebody_thaws_meanwhile_was_not_paused_all_the_time(
    places: Places, container: Path
) -> None:
    async with _pauser(places).pause(CONTAINER) as pause:
        (Path(places.cgroup.format(vmid=102)) / "cgroup.freeze").write_text("0")
        assert await pause.resume() == "somebody thawed the container meanwhile"


async def test_a_container_whose_file_systems_are_not_found_is_not_paused(places: Places, container: Path) -> None:
    with pytest.raises(PauseRefused, match="tank/subvol-102-disk-0 is not mounted"):
        async with _pauser(places).pause(GuestHere(102, "lxc", ("tank/subvol-102-disk-0",))):
            pytest.fail("what it wrote may be in memory only")
    assert _goes_on(container)


async def test_a_guest_that_an_operator_has_paused_stays_paused(places: Places, vm: Path) -> None:
    monitor = Monitor(places.qmp.format(vmid=101), 5)
    monitor.execute("stop", time.monotonic() + 5)
    monitor.close()
    async with _pauser(places).pause(VM) as pause:
        assert await pause.resume() is None
    assert not _goes_on(vm)


async def test_a_guest_that_is_off_stands_still_by_itself(places: Places) -> None:
    for guest in (VM, CONTAINER):
        async with _pauser(places).pause(guest) as pause:
            assert await pause.resume() is None


async def test_a_monitor_that_does_not_answer_is_told(places: Places, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "101.qmp"))
        silent.listen()
        with pytest.raises(PauseRefused, match="no answer to its greeting in time"):
            async with _pauser(places).pause(VM):
                pytest.fail("it was not paused")


def _child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(c) for c in children if b"guests.child" in Path(f"/proc/{c}/cmdline").read_bytes())


def _kill_the_child() -> None:
    os.kill(_child_of(os.getpid()), signal.SIGKILL)
