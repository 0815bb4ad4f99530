"""Where the lab keeps what it builds: finished folders, each named by what it was made from.

A folder appears under its final name only when it is whole (built beside it, then renamed), so an interrupted build
leaves nothing that a later one would trust.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
CHECKOUT = SOURCE.parents[1]
GUEST = SOURCE / "guest"
CACHE = Path(os.environ.get("HOLDFAST_LAB") or Path.home() / ".cache/holdfast-lab").resolve()
_STARTED = time.monotonic()


def say(text: str) -> None:
    """One line of progress, with the seconds since this process began; stderr, so that stdout stays for results."""
    print(f"lab [{time.monotonic() - _STARTED:5.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock `name`; the kernel lets go of it when this process dies."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            say(f"waiting for {name!r}, held by process {file.read().strip() or '?'}")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def built(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The finished folder `kind/key`; made by `make(temporary folder)` where it is missing. Call it under the lock."""
    final = CACHE / kind / key
    if final.is_dir():
        os.utime(final)
        return final
    partial = final.parent / f".partial-{key}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    started = time.monotonic()
    make(partial)
    partial.rename(final)
    say(f"{kind} built in {time.monotonic() - started:.0f} s")
    return final


def discard_old(kind: str, keep: int) -> None:
    """Remove all but the `keep` folders of a kind that were used last; none that a lab runs from."""
    in_use = {link.resolve() for link in CACHE.glob("run/*/image")}
    folders = sorted((CACHE / kind).glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in folders[keep:]:
        if folder.resolve() not in in_use:
            shutil.rmtree(folder)


def command(argv: Sequence[str | Path], log: Path | None = None, *, cwd: Path | None = None, stdin: str = "") -> str:
    """Run a build command and return its stdout; failing, it shows the end of what the command said."""
    result = subprocess.run(list(map(str, argv)), cwd=cwd, input=stdin, capture_output=True, text=True, check=False)
    if log is not None:
        with log.open("a") as file:
            file.write(f"$ {' '.join(map(str, argv))}\n{result.stdout}{result.stderr}")
    if result.returncode != 0:
        end = "\n".join((result.stdout + result.stderr).splitlines()[-25:])
        raise RuntimeError(f"building the lab: {' '.join(map(str, argv))} exited {result.returncode}\n{end}")
    return result.stdout
