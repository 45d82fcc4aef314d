"""The notify socket, whatever is at its other end."""

import os
import socket
from pathlib import Path

import pytest

from worker.observability.systemd import MAX_WAITING, Message, NotifySocket, take_variables, watchdog_period


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(5)
    return sock


def test_messages_come_in_their_order_with_their_sockets(tmp_path: Path) -> None:
    with listener(tmp_path / "notify") as systemd, socket.socket() as kept:
        NotifySocket(str(tmp_path / "notify")).send([Message("READY=1"), Message("FDSTORE=1", (kept,))])
        assert systemd.recv(100) == b"READY=1"
        text, fds, _, _ = socket.recv_fds(systemd, 100, 1)
        assert text == b"FDSTORE=1"
        assert os.fstat(fds[0]).st_ino == os.fstat(kept.fileno()).st_ino
        os.close(fds[0])


def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")
        name = systemd.getsockname()
        NotifySocket("@" + name[1:].decode()).send([Message("READY=1")])
        assert systemd.recv(100) == b"READY=1"


def test_what_could_not_be_sent_is_sent_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notify = NotifySocket(str(tmp_path / "notify"))
    notify.send([Message("READY=1")])
    notify.send([Message("STATUS=x")])
    assert caplog.text.count("systemd cannot be told") == 1
    with listener(tmp_path / "notify") as systemd:
        notify.send()
        assert [systemd.recv(100), systemd.recv(100)] == [b"READY=1", b"STATUS=x"]


def test_a_full_socket_is_not_waited_for(tmp_path: Path) -> None:
    with listener(tmp_path / "notify") as systemd:
        notify = NotifySocket(str(tmp_path / "notify"))
        for at in range(5_000):
            notify.send([Message(f"STATUS={at:0>2000}")])
        received = 0
        systemd.setblocking(False)
        while True:
            try:
                last = systemd.recv(4096)
            except BlockingIOError:
                notify.send()
                try:
                    last = systemd.recv(4096)
                except BlockingIOError:
                    break
            received += 1
        assert int(last[7:]) == 4_999
        assert received >= MAX_WAITING


def test_a_socket_that_was_closed_while_it_waited_is_left_out(tmp_path: Path) -> None:
    notify = NotifySocket(str(tmp_path / "notify"))
    with socket.socket() as kept:
        notify.send([Message("FDSTORE=1", (kept,))])
    with listener(tmp_path / "notify") as systemd:
        notify.send([Message("READY=1")])
        assert systemd.recv(100) == b"READY=1"


def test_the_variables_are_ours_alone() -> None:
    environment = {"NOTIFY_SOCKET": "/n", "LISTEN_FDS": "1", "PROPYLON_LISTENERS": "{}", "PATH": "/bin"}
    taken = take_variables(environment, ["PROPYLON_LISTENERS"])
    assert environment == {"PATH": "/bin"}
    assert taken == {"NOTIFY_SOCKET": "/n", "LISTEN_FDS": "1", "PROPYLON_LISTENERS": "{}"}


def test_the_watchdog_watches_the_process_it_names() -> None:
    assert watchdog_period({"WATCHDOG_USEC": "2500000"}, 7) == 2.5
    assert watchdog_period({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "7"}, 7) == 2.5
    assert watchdog_period({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "8"}, 7) is None
    assert watchdog_period({"WATCHDOG_USEC": "soon"}, 7) is None
    assert watchdog_period({}, 7) is None
