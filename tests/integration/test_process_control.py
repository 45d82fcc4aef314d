"""Signals, deaths and reloads, with real processes."""

import os
import pwd
import signal
import socket
import tempfile
import threading
from pathlib import Path

import pytest

from tests.fakes.processes import Etcd, Gateway, free_port, read_response, request, wait_until
from tests.fakes.upstream import Upstream


class Load:
    """Clients that ask without pause over connections that stay open, and note what goes wrong."""

    def __init__(self, gateway: Gateway, clients: int = 4) -> None:
        self.failures: list[str] = []
        self.answered = 0
        self._gateway = gateway
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        """Ask over one connection until the gateway says that it closes it, then over another."""
        while not self._stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._gateway.port), timeout=10) as sock:
                    while not self._stop.is_set():
                        sock.sendall(b"GET /load HTTP/1.1\r\nHost: a\r\n\r\n")
                        head = self._read(sock)
                        if not head.startswith(b"HTTP/1.1 200"):
                            self.failures.append(repr(head))
                            break
                        self.answered += 1
                        if b"\r\nConnection: close\r\n" in head:
                            break
            except OSError as error:
                self.failures.append(repr(error))

    def _read(self, sock: socket.socket) -> bytes:
        data = b""
        while not data.endswith(b"upstream"):
            piece = sock.recv(65536)
            if not piece:
                break
            data += piece
        return data


def test_killed_worker_comes_back_on_its_slot(gateway: Gateway) -> None:
    before = gateway.workers()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: gateway.log().count("is ready at revision") == 3, "its successor is ready")
    after = gateway.workers()
    assert len(after) == 2
    assert victim not in after
    for pid in after:
        with gateway.connection_to(pid) as sock:
            assert request(sock, "/x")[0] == 200


def test_hung_worker_is_replaced(tmp_path: Path, etcd: Etcd) -> None:
    gateway = Gateway(tmp_path, etcd.url, worker_heartbeat_timeout=2)
    gateway.start()
    try:
        victim = min(gateway.workers())
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: victim not in gateway.workers() and len(gateway.workers()) == 2, "a new worker")
        assert f"worker {victim} has not moved" in gateway.log()
    finally:
        gateway.kill()


def test_hup_under_load_fails_no_request(gateway: Gateway) -> None:
    with Load(gateway) as load:
        for count in (3, 1, 2):
            before = gateway.workers()
            gateway.write_conf(worker_processes=count)
            done = gateway.command("-s", "reload")
            assert done.returncode == 0, done.stderr
            answered = load.answered
            wait_until(lambda answered=answered: load.answered > answered + 50, "requests go on")  # type: ignore[misc]
            wait_until(
                lambda before=before, count=count: (
                    len(gateway.workers() - before) == count  # type: ignore[misc]
                    and not gateway.workers() & before
                ),
                "a new generation alone",
            )
    assert load.failures == []
    assert load.answered > 100


def test_hup_brings_new_workers_and_new_addresses(gateway: Gateway) -> None:
    port = free_port()
    gateway.write_conf(listen=[f"127.0.0.1:{gateway.port}", f"127.0.0.1:{port}"])
    before = gateway.workers()
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: "generation 2 serves" in gateway.log(), "the reload")
    wait_until(lambda: not gateway.workers() & before, "the old generation has ended")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        assert request(sock, "/x")[0] == 200
    gateway.write_conf(listen=[f"127.0.0.1:{port}"])
    assert gateway.command("-s", "reload").returncode == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"worker_procs": 3}, "worker_procs"),
        ({"listen": ["127.0.0.1:1:2"]}, "listen[0]"),
        ({"etcd": {"host": ["http://127.0.0.1:1"], "tls": {"cert": "/none"}}, "user": "nobody-of-that-name"}, "user"),
    ],
)
def test_hup_with_a_broken_conf_keeps_the_old_generation(
    gateway: Gateway, change: dict[str, object], reason: str
) -> None:
    before = gateway.workers()
    gateway.write_conf(**change)
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: "reload failed" in gateway.log(), "the complaint")
    assert reason in gateway.log()
    assert gateway.get("/x")[0] == 200
    wait_until(lambda: gateway.workers() == before, "no other workers than before")
    del gateway.settings[next(iter(change))]
    gateway.settings.pop("user", None)
    gateway.write_conf(listen=[f"127.0.0.1:{gateway.port}"], etcd=gateway.settings.get("etcd", {}))


def test_reload_that_never_becomes_ready_is_rolled_back(gateway: Gateway) -> None:
    before = gateway.workers()
    gateway.write_conf(etcd={"host": ["http://127.0.0.1:1"]}, worker_startup_timeout=1)
    done = gateway.command("-s", "reload")
    assert done.returncode == 1
    assert "worker_startup_timeout" in done.stderr
    assert gateway.get("/x")[0] == 200
    wait_until(lambda: gateway.workers() == before, "no other workers than before")


def test_quit_finishes_the_request_under_way(gateway: Gateway, upstream: Upstream) -> None:
    workers = gateway.workers()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        sock.sendall(b"GET /slow?s=0.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: upstream.requests, "the request is under way")
        gateway.signal(signal.SIGQUIT)
        assert read_response(sock) == (200, b"upstream")
        assert sock.recv(65536) == b""
    assert gateway.process is not None
    assert gateway.process.wait(10) == 0
    gateway.process = None
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not (gateway.directory / "run" / "propylon.pid").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_leave_nothing_behind(gateway: Gateway, number: signal.Signals) -> None:
    workers = gateway.workers()
    assert gateway.stop(number) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not (gateway.directory / "run" / "propylon.pid").exists()


def test_workers_end_when_the_master_is_killed(gateway: Gateway) -> None:
    workers = gateway.workers()
    assert gateway.process is not None
    gateway.process.kill()
    gateway.process.wait()
    gateway.process = None
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers have ended")


def test_logs_are_reopened(gateway: Gateway) -> None:
    run = gateway.directory / "run"
    assert gateway.get("/before")[0] == 200
    wait_until(lambda: "/before" in (run / "access.log").read_text(), "the request is logged")
    for name in ("access.log", "error.log"):
        (run / name).rename(run / f"{name}.1")
    assert gateway.command("-s", "reopen").returncode == 0
    wait_until(lambda: (run / "access.log").exists(), "a new file")
    assert gateway.get("/after")[0] == 200
    wait_until(lambda: "/after" in (run / "access.log").read_text(), "the request is logged in it")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_workers_give_up_root_and_can_still_reopen_and_reload() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        etcd = Etcd(directory)
        etcd.start()
        gateway = Gateway(directory, etcd.url, user="nobody")
        try:
            gateway.start()
            owners = {Path(f"/proc/{pid}").stat().st_uid for pid in gateway.workers()}
            assert owners == {pwd.getpwnam("nobody").pw_uid}
            (directory / "run" / "error.log").rename(directory / "run" / "error.log.1")
            assert gateway.command("-s", "reopen").returncode == 0
            wait_until(lambda: (directory / "run" / "error.log").exists(), "a new file")
            done = gateway.command("-s", "reload")
            assert done.returncode == 0, done.stderr
            assert gateway.get("/x")[0] == 404
        finally:
            gateway.kill()
            etcd.kill()


def test_one_worker_more_and_less(gateway: Gateway) -> None:
    first = gateway.workers()
    gateway.signal(signal.SIGTTIN)
    wait_until(lambda: "3 workers serve" in gateway.log(), "three workers")
    assert first < gateway.workers()
    gateway.signal(signal.SIGTTOU)
    wait_until(lambda: gateway.workers() == first, "the two from before, untouched")
    assert gateway.get("/x")[0] == 200


def test_a_second_master_is_refused(gateway: Gateway) -> None:
    done = gateway.command()
    assert done.returncode == 1
    assert "is running" in done.stderr


def test_the_command_line(gateway: Gateway) -> None:
    assert gateway.command("-t").returncode == 0
    gateway.conf.write_text("listenn: 1\n")
    done = gateway.command("-t")
    assert done.returncode == 1
    assert "listenn" in done.stderr
    assert gateway.command("-v").stdout.startswith("propylon ")
