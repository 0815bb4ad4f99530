"""The writer's monitor: it stands still and goes on when told to, on standard input or over QMP as QEMU does."""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Monitor:
    """Asked by the writer before each write; told by others."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._changed = threading.Condition()
        self._stopped = self._still = False

    def start(self) -> None:
        """Listen, on QMP's socket where the environment names one."""
        threading.Thread(target=self._listen, daemon=True).start()
        if path := os.environ.get("QMP"):
            Path(path).unlink(missing_ok=True)
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(path)
            listening.listen()
            threading.Thread(target=self._serve, args=(listening,), daemon=True).start()

    def pass_by(self) -> None:
        """Wait here while it is to stand still."""
        with self._changed:
            while self._stopped:
                self._still = True
                self._changed.notify_all()
                self._changed.wait()
            self._still = False

    def _stop(self) -> None:
        """Returns when what it had begun to write is done."""
        with self._changed:
            self._stopped = True
            self._changed.wait_for(lambda: self._still)

    def _cont(self) -> None:
        with self._changed:
            self._stopped = False
            self._changed.notify_all()

    def _listen(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                self._stop()
                print("stopped", flush=True)
            else:
                self._cont()
        self.ended.set()
        self._cont()

    def _serve(self, listening: socket.socket) -> None:
        """One client at a time, the others wait, as with QEMU; what a client that has left had asked is not done."""
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rwb") as file:
                for answer in self._answers(file):
                    try:
                        file.write(json.dumps(answer).encode() + b"\n")
                        file.flush()
                    except OSError:
                        break

    def _answers(self, file: Any) -> Iterator[dict[str, Any]]:
        yield {"QMP": {"version": {}, "capabilities": []}}
        for line in file:
            asked = json.loads(line)
            result: dict[str, Any] = {}
            match asked["execute"]:
                case "stop":
                    self._stop()
                case "cont":
                    self._cont()
                case "query-status":
                    result = {"status": "paused" if self._stopped else "running"}
            yield {"return": result, "id": asked["id"]}
