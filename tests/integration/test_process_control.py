"""Signals, deaths and reloads, with real processes."""

import pwd
import signal
import socket
from pathlib import Path

import pytest

from tests.fakes.processes import Gateway, read_response, wait_until
from tests.fakes.upstream import Upstream


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


def test_workers_give_up_root_and_can_still_reopen_and_reload(gateway_of_nobody: Gateway) -> None:
    gateway, run = gateway_of_nobody, gateway_of_nobody.directory / "run"
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in gateway.workers()}
    assert owners == {pwd.getpwnam("nobody").pw_uid}
    (run / "error.log").rename(run / "error.log.1")
    assert gateway.command("-s", "reopen").returncode == 0
    wait_until(lambda: (run / "error.log").exists(), "a new file")
    done = gateway.command("-s", "reload")
    assert done.returncode == 0, done.stderr
    assert gateway.get("/x")[0] == 404


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
