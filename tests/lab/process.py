"""A command that runs in the background in a host."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass

from .exec_channel import Result, ScriptFailed

Run = Callable[[str], Result]


@dataclass(frozen=True)
class HostProcess:
    """A background process with its process group, known by its pid there."""

    run: Run
    pid: int
    log_path: str

    @classmethod
    def start(cls, run: Run, command: str, name: str) -> "HostProcess":
        """Start a shell command as a process group of its own."""
        log = f"/var/log/holdfast/{name}.log"
        # `exec`, so that the pid is the program's where the command is a single one.
        quoted = shlex.quote(f"exec {command}")
        script = f"HOLDFAST_LAB_PROCESS={name} setsid bash -c {quoted} >>{log} 2>&1 </dev/null & echo $!"
        result = run(script)
        if result.status != 0:
            raise ScriptFailed(f"starting {name}: {result.stderr.decode()}")
        return cls(run, int(result.stdout), log)

    def alive(self) -> bool:
        return self.run(f"kill -0 {self.pid}").status == 0

    def wait(self) -> None:
        """Until it has ended. One command: asking again and again would cost the slow host most of its time."""
        # tail(1) ends with the process of --pid, which it looks for every -s seconds.
        self.run(f"tail -s 0.05 --pid={self.pid} -f /dev/null")

    def signal(self, name: str) -> None:
        """Send a signal, as in `TERM`, to the whole process group. Raises ScriptFailed where it is gone."""
        result = self.run(f"kill -{name} -- -{self.pid}")
        if result.status != 0:
            raise ScriptFailed(f"kill -{name} {self.pid}: {result.stderr.decode()}")

    def sigstop(self) -> None:
        self.signal("STOP")

    def sigcont(self) -> None:
        self.signal("CONT")

    def stop(self, timeout: float = 30.0) -> None:
        """End it: TERM, then KILL after `timeout` seconds. One that has ended already is no error."""
        self.run(f"kill -TERM -- -{self.pid}")
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > deadline:
                self.run(f"kill -KILL -- -{self.pid}")
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill -9 the process group."""
        self.run(f"kill -KILL -- -{self.pid}")

    def log(self) -> str:
        """What it has printed, and any earlier one of the same name."""
        return self.run(f"cat {self.log_path}").stdout.decode(errors="replace")
