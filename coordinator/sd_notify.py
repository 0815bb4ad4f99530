"""Tells systemd how the service fares: sd_notify(3), one datagram to $NOTIFY_SOCKET. Nothing happens without one."""

import os
import socket


def notify(state: str) -> None:
    """Send `READY=1`, `STOPPING=1`, `STATUS=…`, `WATCHDOG=1`. A failure is no reason to stop: it is passed over.

    A name that begins with `@` is in Linux's abstract namespace, where that byte is a zero (unix(7)).
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(state.encode(), address)
    except OSError:
        return
