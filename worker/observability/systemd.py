"""Telling systemd how the gateway is (sd_notify(3)), when it has asked to be told."""

import contextlib
import os
import socket


def notify(text: str) -> None:
    """Send lines such as ``READY=1``; without ``NOTIFY_SOCKET`` nothing happens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(text.encode(), address)
