"""The process that pauses one guest. Guards that no guest stays frozen, whatever becomes of the agent.

1. It pauses, says so, and waits for the end of its stdin, but no longer than the bound, by its own monotonic clock.
   Then it lets the guest go on. So an agent that was killed closes stdin, one that was stopped runs into the bound.
2. It says that the pause held only if the guest stood still when the agent had let go, within the bound.
3. SIGTERM does not end it (systemd sends it to the whole unit). Where it is killed itself, its mark stays behind: the
   agent, or its next life, has that guest resumed by `thaw`.

Usage: child.py pause|thaw|users ORDER. ORDER is JSON with the fields of `pauser.Order`. It answers in lines of JSON.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from holdfast.agent.guests import subjects, usage
from holdfast.agent.guests.cgroup import Cgroup
from holdfast.agent.guests.subjects import CannotPause, Machine, Subject, find


def say(**what: object) -> None:
    """To the agent, which may be gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(what).encode() + b"\n")


def pause(order: dict[str, Any]) -> None:
    """Until the agent lets go or the bound has passed."""
    try:
        subject = find(
            order["kind"], order["path"], order["datasets"], order["agent"], order["clients"], order["images"]
        )
    except (CannotPause, OSError) as error:
        say(refused=str(error))
        return
    mark = Path(order["mark"])
    mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = mark.with_suffix(".new")
    new.write_text(json.dumps(order))
    new.rename(mark)
    began = time.monotonic()
    why = None
    try:
        why = _hold(subject, began + order["bound"])
    except (CannotPause, OSError) as error:
        why = str(error)
    finally:
        try:
            too_late = subject.resume()
            why = why or too_late
            mark.unlink()
        except (CannotPause, OSError) as error:
            why = f"it may still be paused: {error}"
    say(held=why is None, why=why, seconds=round(time.monotonic() - began, 4))


def _hold(subject: Subject, deadline: float) -> str | None:
    """Why the pause did not hold; None: it did."""
    subject.pause(deadline)
    say(paused=True)
    done, _, _ = select.select([0], [], [], max(0.0, deadline - time.monotonic()))
    if not done:
        return "the snapshots were not taken within the bound"
    return subject.moved()


def thaw(order: dict[str, Any]) -> None:
    """Resume what a pause that was killed has left behind."""
    try:
        if order["kind"] == "qemu":
            machine = Machine(order["path"])
            machine.left_paused()
            machine.resume()
            if order["agent"] is not None:
                subjects.thaw(order["agent"])
        else:
            Cgroup(Path(order["path"])).thaw()
    except (FileNotFoundError, ConnectionRefusedError):
        pass  # it has ended since
    except (CannotPause, OSError) as error:
        say(refused=str(error))
        return
    Path(order["mark"]).unlink(missing_ok=True)
    say(thawed=True)


def users(order: dict[str, Any]) -> None:
    """Who uses the disks."""
    try:
        say(users=[usage.name(pid) for pid in usage.users(order["datasets"])])
    except PermissionError as error:
        say(refused=f"{error} (the agent's unit needs CAP_SYS_PTRACE)")


def main() -> None:
    """Carry one order out."""
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    {"pause": pause, "thaw": thaw, "users": users}[sys.argv[1]](json.loads(sys.argv[2]))
    os._exit(0)  # a sync that has not ended must not keep it


if __name__ == "__main__":
    main()
