"""The gateway under a service manager, played by a notify socket and inherited descriptors."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.activation import launch_with, listening
from tests.fakes.notified import Notified
from tests.fakes.processes import PATIENCE, Etcd, Gateway, free_port, read_response, request, wait_until
from tests.fakes.upstream import Upstream


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notified]:
    with Notified(tmp_path / "notify") as listening_for:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening_for


@pytest.fixture
def served(tmp_path: Path, etcd: Etcd, upstream: Upstream, systemd: Notified) -> Iterator[Gateway]:
    """A gateway with a notify socket, which is not started yet; etcd, which would speak too, has none."""
    etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
    gateway = Gateway(tmp_path, etcd.url)
    yield gateway
    gateway.kill()


def test_systemd_is_told(served: Gateway, systemd: Notified) -> None:
    served.start()
    assert served.process is not None
    ready = systemd.await_line("READY=1")
    assert f"MAINPID={served.process.pid}" in ready.split("\n")
    assert "generation 1, 2 of 2 workers ready" in ready
    served.signal(signal.SIGHUP)
    systemd.await_line("RELOADING=1")
    assert "\nMONOTONIC_USEC=" in systemd.await_line("RELOADING=1")
    assert "generation 2, 2 of 2" in systemd.await_line("READY=1", 2)
    served.conf.write_text("listenn: 1\n")
    served.signal(signal.SIGHUP)
    systemd.await_line("RELOADING=1", 2)
    assert "the last reload failed: " in systemd.await_line("READY=1", 3)
    assert "listenn" in systemd.await_line("READY=1", 3)
    served.stop(signal.SIGQUIT)
    systemd.await_line("STOPPING=1")


def test_the_watchdog_starves_when_the_workers_hang(
    served: Gateway, systemd: Notified, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    served.start()
    systemd.await_line("WATCHDOG=1", 3)
    workers = served.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: systemd.is_silent_of("WATCHDOG=1", 1.5), "nothing is heard")
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    systemd.await_line("WATCHDOG=1", len(systemd.having("WATCHDOG=1")) + 1)


def test_an_aborted_master_leaves_no_worker_that_hangs(
    served: Gateway, systemd: Notified, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    served.start()
    workers = served.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: systemd.is_silent_of("WATCHDOG=1", 1.5), "the watchdog would bite")
    assert served.stop(signal.SIGABRT) == -signal.SIGABRT
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "nobody is left")


def test_the_sockets_of_a_killed_master_are_taken_by_the_next(served: Gateway, systemd: Notified) -> None:
    served.start()
    systemd.await_line("READY=1")
    own = {f"propylon-{slot}-127.0.0.1-{served.port}" for slot in range(2)}
    assert systemd.store.keys() == {*own, f"propylon-0-127.0.0.1-{served.control_port}"}
    served.kill()
    waiting = [socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) for _ in range(20)]
    for sock in waiting:
        sock.sendall(b"GET /queued HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n")
    launch_with(served, systemd.store)
    for sock in waiting:
        with sock:
            assert read_response(sock) == (200, b"upstream")
    systemd.await_line("READY=1", 2)
    assert len(systemd.having("FDSTORE=1")) == 3  # nothing new to keep
    assert served.get("/x")[0] == 200


def test_sockets_for_addresses_that_are_given_up_leave_the_store(served: Gateway, systemd: Notified) -> None:
    served.start()
    systemd.await_line("READY=1")
    port = free_port()
    served.write_conf(listen=[f"127.0.0.1:{port}"])
    assert served.command("-s", "reload").returncode == 0
    wait_until(
        lambda: systemd.read() and {f"propylon-{slot}-127.0.0.1-{port}" for slot in range(2)} <= systemd.store.keys(),
        "the new ones are kept",
    )
    wait_until(
        lambda: systemd.read() and not any(name.endswith(f"-{served.port}") for name in systemd.store),
        "the old ones are not",
    )


@pytest.mark.parametrize("reuse", [False, True])
def test_a_socket_of_systemd_is_served(served: Gateway, systemd: Notified, reuse: bool) -> None:
    with listening(served.port, reuse) as sock:
        client = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
        launch_with(served, {"propylon.socket": sock.fileno()})
        with client:
            assert request(client, "/x") == (200, b"upstream")
        systemd.await_line("READY=1")
        assert not any(name == f"propylon-0-127.0.0.1-{served.port}" for name in systemd.store)
        for pid in served.workers():
            with served.connection_to(pid) as direct:
                assert request(direct, "/x")[0] == 200
        served.signal(signal.SIGTTIN)
        systemd.await_line("READY=1", 2)
        assert len(served.workers()) >= 3


def test_a_socket_that_nobody_wants_is_closed(served: Gateway, systemd: Notified) -> None:
    port = free_port()
    with listening(port, False) as sock:
        launch_with(served, {"other.socket": sock.fileno()})
        systemd.await_line("READY=1")
    assert f"127.0.0.1:{port}, which we were given, is closed" in served.log()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def test_nobody_at_the_other_end_stops_nothing(served: Gateway, systemd: Notified) -> None:
    systemd.path.unlink()
    served.start()
    assert served.get("/x")[0] == 200
    assert "systemd cannot be told" in served.log()
