"""The agent's unit leaves it the rights that it needs for guests: seen with real processes, mounts and cgroups.

A dataset's mount is played by a tmpfs of that name: to the kernel's tables, a mount of `tank/subvol-102-disk-0`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from holdfast.agent.guests.pauser import Order
from integration import under_unit

UNIT = Path(__file__).parents[2] / "systemd" / "holdfast-agent.service"
DATASET = "tank/subvol-102-disk-0"
NOBODY = 65534


def _child(action: str, unit: Path = UNIT, within: int | None = None, **order: object) -> dict[str, object]:
    """What the agent's child process says, where it sees the processes that another one sees."""
    given = asdict(Order("lxc", "/nowhere", [DATASET], 5.0, "/nowhere"))
    argv = ["nsenter", "--pid", "--mount", f"--target={within}", "--"] if within else []
    argv += [sys.executable, under_unit.__file__, str(unit)]
    argv += [sys.executable, "-m", "holdfast.agent.guests.child", action, json.dumps(given | order)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return dict(json.loads(lines[-1]))


def _without(right: str, tmp_path: Path) -> Path:
    """The unit without one of its rights."""
    less = tmp_path / "less.service"
    words = [line.split("=", 1) for line in UNIT.read_text().splitlines()]
    less.write_text("\n".join("=".join((w[0], *(p.replace(right, "") for p in w[1:]))) for w in words))
    return less


@pytest.fixture
def mounted(installed: None, tmp_path: Path) -> Iterator[Path]:
    """A container's file system; it belongs to the container's root, and nobody else may look into it."""
    folder = tmp_path / "subvol"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"uid={NOBODY},mode=700", DATASET, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def user(mounted: Path) -> Iterator[int]:
    """The process of an unprivileged container, first in a PID namespace: it has a file open, and stands elsewhere."""
    argv = ["unshare", "--pid", "--fork", "--mount-proc"]
    argv += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sleep", "600"]
    with (mounted / "file").open("w") as file:
        process = subprocess.Popen(argv, stdin=file, cwd="/")
    try:
        first = _first(process.pid)
        yield first
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)  # the namespace ends with it, and unshare
    finally:
        process.kill()
        process.wait()


def _first(parent: int) -> int:
    """The process that a new PID namespace begins with, once it is what it is to be."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "sleep\n":
                return int(child)
        time.sleep(0.02)
    raise AssertionError("the namespace did not begin")


def test_the_agent_sees_who_uses_a_guests_disks(user: int) -> None:
    said = _child("users", within=user)
    assert said == {"users": ["sleep (1)"]}


@pytest.mark.parametrize("right", ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"])
def test_without_these_rights_it_says_that_it_does_not(user: int, tmp_path: Path, right: str) -> None:
    said = _child("users", _without(right, tmp_path), within=user)
    assert "Permission denied" in str(said["refused"])


def test_the_agent_freezes_and_syncs_a_container(user: int, tmp_path: Path) -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    cgroup = Path(next(m[1] for m in mounts if m[2] == "cgroup2")) / f"holdfast-rights-{user}"
    cgroup.mkdir()
    try:
        (cgroup / "cgroup.procs").write_text(str(user))
        said = _child("pause", path=str(cgroup), mark=str(tmp_path / "marks" / "102.json"))
        assert said["held"] is True, said
    finally:
        os.kill(user, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while (cgroup / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        cgroup.rmdir()


@pytest.mark.parametrize(("right", "works"), [("nothing", True), ("mount", False), ("CAP_SYS_CHROOT", False)])
def test_the_agent_mounts_where_the_host_sees_it(installed: None, tmp_path: Path, right: str, works: bool) -> None:
    folder = tmp_path / "look"
    folder.mkdir()
    argv = ["nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt", "--", "mount", "-it", "tmpfs", "look", folder]
    argv = ["unshare", "--mount", sys.executable, under_unit.__file__, _without(right, tmp_path), *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    try:
        assert folder.is_mount() is works, done.stderr
    finally:
        subprocess.run(["umount", folder], check=False, capture_output=True)
