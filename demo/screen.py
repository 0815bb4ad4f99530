"""What the demo prints: a line of narration, and commands with their output, each the one that really runs."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.lab.host import Host

CHECKOUT = Path(__file__).resolve().parents[1]
_STARTED = time.monotonic()
_BIN = Path(sys.executable).parent

T = TypeVar("T")


class NotAsSaid(Exception):
    """Something is not as the demo says."""


def environment() -> dict[str, str]:
    """Where `holdfast` is found, and where it finds etcd."""
    return {
        **os.environ,
        "PATH": f"{_BIN}:{os.environ.get('PATH', os.defpath)}",
        "HOLDFAST_ENDPOINTS": "http://10.77.0.254:2379",
        "COLUMNS": os.environ.get("COLUMNS", "120"),
    }


def say(text: str) -> None:
    """One line of narration, with the seconds since the demo began."""
    print(f"\n--- {time.monotonic() - _STARTED:3.0f} s: {text}", flush=True)


def here(command: str) -> None:
    """Show and run a command in the lab's network, its output going to ours."""
    print(f"$ {command}", flush=True)
    done = subprocess.run(
        shlex.split(command), cwd=CHECKOUT, env=environment(), stdin=subprocess.DEVNULL, check=False, timeout=600
    )
    if done.returncode != 0:
        raise NotAsSaid(f"`{command}` exited {done.returncode}")


@contextmanager
def shown(command: str) -> Iterator[None]:
    """Show and run a command that goes on by itself, while the block runs."""
    print(f"$ {command}", flush=True)
    process = subprocess.Popen(shlex.split(command), cwd=CHECKOUT, env=environment(), stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()  # not SIGINT, which a demo in a script's background ignores, and what it starts with it
        process.wait(30)


def on(host: Host, script: str) -> str:
    """Show and run a script on a host, print its output, and return it."""
    first, *rest = script.strip().splitlines()
    print(f"{host.name}# {first}", *(f"> {line}" for line in rest), sep="\n", flush=True)
    output = host.run(script)
    if output:
        print(output, end="", flush=True)
    return output


def wait(what: str, seconds: float, look: Callable[[], T | None], pause: float = 1.0) -> T:
    """Look until there is something, and return it. Raises NotAsSaid after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise NotAsSaid(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)
    return found


def mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**20:.1f} MiB"
