"""A long-running process of the lab on this machine: known by a pid file, so that a later process can end it."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, Signals

_ENDING_SECONDS = 30.0


class Daemon:
    """One process, its pid in `pid_file`, its output in `log`; `mark` is a part of its command line only it has."""

    def __init__(self, pid_file: Path, log: Path, mark: str) -> None:
        self.log = log
        self._pid_file = pid_file
        self._mark = mark.encode()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, argv: Sequence[str]) -> None:
        """Start it, in a session of its own: it outlives this process. One that runs is ended first."""
        if self.pid() is not None:
            self.end()
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._pid_file.write_text(str(self._process.pid))

    def pid(self) -> int | None:
        """Its pid where it runs, else None."""
        if self._process is not None:  # in the middle of an exec a command line is empty
            return self._process.pid if self._process.poll() is None else None
        try:
            pid = int(self._pid_file.read_text())
            command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        return pid if self._mark in command_line else None  # a zombie's command line is empty

    def signal(self, number: Signals) -> None:
        """Send a signal. Raises RuntimeError where it does not run."""
        pid = self.pid()
        if pid is None:
            raise RuntimeError(f"{self._mark.decode()} does not run\n{self.last_words()}")
        os.kill(pid, number)

    def end(self, number: Signals = SIGKILL) -> None:
        """End it with a signal, and wait until it is gone; one that does not run is no error."""
        if self.pid() is not None:
            self.signal(number)
        self.wait()
        self._pid_file.unlink(missing_ok=True)

    def wait(self) -> None:
        """Wait until it has ended. Raises RuntimeError after 30 s."""
        deadline = time.monotonic() + _ENDING_SECONDS
        while self.pid() is not None:
            if self._process is not None:
                self._process.poll()
            if time.monotonic() > deadline:
                raise RuntimeError(f"process {self.pid()} ({self._mark.decode()}) does not end")
            time.sleep(0.02)
        if self._process is not None:
            self._process.wait(_ENDING_SECONDS)
            self._process = None

    def last_words(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
