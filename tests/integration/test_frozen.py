"""File systems are frozen by the real qemu-guest-agent, in a real VM, and go on whatever becomes of the agent."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast.agent.guests.pauser import Pauser, Places
from holdfast.agent.guests.qga import GuestAgent
from holdfast.agent.guests.qmp import Monitor
from holdfast.agent.ports import GuestHere, PauseRefused
from integration import agent_vm
from integration.agent_vm import AgentVm

BOUND = 5.0
"""Seconds: a VM is many times slower without KVM."""
FROZEN = GuestHere(101, "qemu", (), freeze=True)
PAUSED = GuestHere(101, "qemu", ())


@pytest.fixture(scope="module")
def booted_from(installed: None) -> Path:
    return agent_vm.image()


@pytest.fixture
def vm(booted_from: Path, tmp_path: Path) -> Iterator[AgentVm]:
    """A VM that writes to its ext4, and has an agent that answers."""
    with agent_vm.running(booted_from, tmp_path) as vm:
        _wait(lambda: vm.serial.exists() and "wrote" in vm.serial.read_text(), "the VM runs", 50)
        GuestAgent(str(vm.qga), 20).close()
        yield vm


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(qmp=f"{tmp_path}/{{vmid}}.qmp", marks=tmp_path / "paused", agent=f"{tmp_path}/{{vmid}}.qga")


def _wait(what: Callable[[], bool], why: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s: {why}"
        time.sleep(0.05)


def _written(vm: AgentVm) -> int:
    """How much the VM has said of what is on its disk."""
    return vm.serial.stat().st_size


def _goes_on(vm: AgentVm) -> None:
    before = _written(vm)
    _wait(lambda: _written(vm) > before, "its file system takes writes again")


def _needs_recovery(disk: bytes, place: Path) -> bool:
    """Whether the ext4 in an image was in use: what it holds is then to be put in order from its journal first."""
    place.write_bytes(disk)
    shown = subprocess.run(["dumpe2fs", "-h", place], capture_output=True, text=True, check=True).stdout
    features = re.search(r"^Filesystem features:(.*)$", shown, re.M)
    assert features
    return "needs_recovery" in features[1].split()


@pytest.mark.parametrize("guest", [FROZEN, PAUSED])
async def test_a_frozen_vms_disk_needs_no_recovery_and_a_paused_ones_does(
    places: Places, vm: AgentVm, tmp_path: Path, guest: GuestHere
) -> None:
    async with Pauser(places, BOUND).pause(guest) as pause:
        before = _written(vm)
        disk = vm.disk.read_bytes()
        await asyncio.sleep(0.2)
        assert _written(vm) == before, "it writes nothing"
        assert await pause.resume() is None
    assert _needs_recovery(disk, tmp_path / "copy") is not guest.freeze
    _goes_on(vm)
    assert not list(places.marks.glob("*"))
    print(f"{'frozen' if guest.freeze else 'paused'} for {pause.seconds * 1000:.0f} ms, of which 200 ms and a copy")


_AGENT = """
import asyncio, sys
from pathlib import Path
from holdfast.agent.guests.pauser import Pauser, Places
from holdfast.agent.ports import GuestHere

async def main():
    places = Places(qmp=sys.argv[1], marks=Path(sys.argv[2]), agent=sys.argv[3])
    async with Pauser(places, 3.0).pause(GuestHere(101, "qemu", (), freeze=True)):
        print("frozen", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_file_systems_are_thawed_when_the_agent_is_killed_or_stopped(
    places: Places, vm: AgentVm, sign: signal.Signals
) -> None:
    argv = [sys.executable, "-c", _AGENT, places.qmp, str(places.marks), places.agent]
    agent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "frozen\n"
        agent.send_signal(sign)
        _goes_on(vm)
        _wait(lambda: not list(places.marks.glob("*")), "no mark is left")
    finally:
        agent.kill()
        agent.communicate()


def _the_child() -> int:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return next(int(c) for c in children if b"guests.child" in Path(f"/proc/{c}/cmdline").read_bytes())


async def test_a_freeze_whose_process_is_killed_is_found_and_ended(places: Places, vm: AgentVm) -> None:
    async with Pauser(places, 30.0).pause(FROZEN) as pause:
        os.kill(_the_child(), signal.SIGKILL)
        assert await pause.resume() == "the process that paused it was killed"
    _goes_on(vm)


async def test_a_freeze_that_outlasts_its_bound_is_over_and_does_not_count(places: Places, vm: AgentVm) -> None:
    async with Pauser(places, 1.0).pause(FROZEN) as pause:
        await asyncio.sleep(1.5)
        _goes_on(vm)
        assert await pause.resume() == "the snapshots were not taken within the bound"


async def test_what_somebody_else_has_frozen_is_left_as_it_is(places: Places, vm: AgentVm) -> None:
    other = GuestAgent(str(vm.qga), 20)
    other.freeze(time.monotonic() + 20)
    other.close()
    with pytest.raises(PauseRefused, match="frozen already, by somebody else"):
        async with Pauser(places, BOUND).pause(FROZEN):
            pytest.fail("it was not frozen by us")
    before = _written(vm)
    await asyncio.sleep(0.5)
    assert _written(vm) == before
    other = GuestAgent(str(vm.qga), 20)
    other.thaw(time.monotonic() + 20)
    other.close()
    _goes_on(vm)


async def test_what_an_earlier_client_has_asked_confuses_nobody(places: Places, vm: AgentVm) -> None:
    with socket.socket(socket.AF_UNIX) as hasty:
        hasty.connect(str(vm.qga))
        hasty.sendall(b'{"execute":"guest-info"}\n{"execute":"guest-fsfreeze-status"}\n{"execute":"gue')
    async with Pauser(places, BOUND).pause(FROZEN) as pause:
        assert await pause.resume() is None
    _goes_on(vm)


async def test_a_vm_without_an_agent_that_answers_is_neither_frozen_nor_paused(
    places: Places, vm: AgentVm, tmp_path: Path
) -> None:
    (tmp_path / "101.qga").unlink()
    with pytest.raises(PauseRefused, match="No such file or directory"):
        async with Pauser(places, BOUND).pause(FROZEN):
            pytest.fail("it was not frozen")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "101.qga"))
        silent.listen()
        with pytest.raises(PauseRefused, match="did not answer guest-sync-delimited in time"):
            async with Pauser(places, BOUND).pause(FROZEN):
                pytest.fail("it was not frozen")
    _goes_on(vm)
    assert not list(places.marks.glob("*"))


async def test_a_vm_that_an_operator_has_paused_cannot_be_frozen(places: Places, vm: AgentVm) -> None:
    monitor = Monitor(str(vm.qmp), 5)
    monitor.execute("stop", time.monotonic() + 5)
    monitor.close()
    with pytest.raises(PauseRefused, match="in state paused"):
        async with Pauser(places, BOUND).pause(FROZEN):
            pytest.fail("it was not frozen")
