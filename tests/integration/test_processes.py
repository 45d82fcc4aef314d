"""What real processes are shown to be: ``/v1/processes`` and ``propylon ctl processes``."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fakes.processes import PATIENCE, ROOT, Etcd, Gateway, request, wait_until
from tests.fakes.upstream import Upstream


def processes(gateway: Gateway) -> dict[str, Any]:
    status, answer = gateway.control("/v1/processes")
    assert status == 200
    decoded: dict[str, Any] = answer
    return decoded


def workers(gateway: Gateway) -> list[dict[str, Any]]:
    return [worker for generation in processes(gateway)["generations"] for worker in generation["workers"]]


def test_what_every_process_does_is_shown(gateway: Gateway, upstream: Upstream) -> None:
    assert gateway.process is not None
    answer = processes(gateway)
    master = answer["master"]
    assert (master["pid"], master["generation"], master["phase"]) == (gateway.process.pid, 1, "running")
    assert abs(master["rss"] - rss_of(gateway.process.pid)) < 4_000_000
    assert master["reload"] is None
    assert [(slot["slot"], slot["restarts"]) for slot in answer["slots"]] == [(0, 0), (1, 0)]
    assert {slot["pid"] for slot in answer["slots"]} == gateway.workers()
    assert len({worker["digest"] for worker in workers(gateway)}) == 1
    pid = min(gateway.workers())
    with gateway.connection_to(pid) as idle, gateway.connection_to(pid) as busy:
        assert request(idle, "/x")[0] == 200
        busy.sendall(b"GET /slow?s=15 HTTP/1.1\r\nHost: a\r\n\r\n")

        def shown() -> dict[str, Any]:
            return next(worker for worker in workers(gateway) if worker["pid"] == pid)

        wait_until(lambda: shown()["connections"]["active"] == 1, "the request under way is counted")
        wait_until(lambda: shown()["connections"]["idle"] == 1, "and the client that waits")
        worker = shown()
        assert worker["state"] == "ready"
        assert worker["connections"]["upstream_active"] == 1
        assert worker["accepted"] >= 2
        assert worker["requests"] >= 3
        assert abs(worker["rss"] - rss_of(pid)) < 8_000_000
        assert 0 < worker["age"] < master["age"] + PATIENCE


def test_a_tunnel_is_counted_as_such(gateway: Gateway, etcd: Etcd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nodes = {f"127.0.0.1:{listener.getsockname()[1]}": 1}
        gateway.applied(etcd.put("routes/ws", {"uri": "/ws", "enable_websocket": True, "upstream": {"nodes": nodes}}))
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE) as client:
            client.sendall(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.1 101")
                wait_until(lambda: sum(each["connections"]["tunnels"] for each in workers(gateway)) == 1, "a tunnel")
                assert sum(each["connections"]["active"] for each in workers(gateway)) == 0


def test_restarts_and_how_a_reload_has_ended_are_shown(gateway: Gateway) -> None:
    victim = min(gateway.workers())
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: sum(slot["restarts"] for slot in processes(gateway)["slots"]) == 1 and len(gateway.workers()) == 2,
        "a restart is counted",
    )
    wait_until(lambda: gateway.control("/status/ready")[0] == 200, "it is ready")
    gateway.write_conf(worker_heartbeat_timeout=60)
    assert gateway.command("-s", "reload").returncode == 0
    answer = processes(gateway)
    assert answer["generations"][0]["generation"] == answer["master"]["generation"] == 2
    assert answer["master"]["reload"]["ok"] is True
    gateway.conf.write_text("worker_processes: many")
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: not processes(gateway)["master"]["reload"]["ok"], "the outcome of the next reload")
    told = processes(gateway)["master"]["reload"]
    assert "worker_processes" in told["reason"]
    assert told["generation"] == 2


def test_a_stopped_worker_is_silent(gateway: Gateway) -> None:
    victim = max(gateway.workers())
    os.kill(victim, signal.SIGSTOP)
    try:
        wait_until(lambda: silence(gateway, victim) > 2, "its silence grows")
    finally:
        os.kill(victim, signal.SIGCONT)
    wait_until(lambda: silence(gateway, victim) < 2, "it is back")


def silence(gateway: Gateway, pid: int) -> float:
    return float(next(worker["heartbeat_age"] for worker in workers(gateway) if worker["pid"] == pid))


def test_the_command_line_shows_a_table(gateway: Gateway) -> None:
    command = [sys.executable, str(ROOT / "master.py"), "ctl", "processes"]
    for where in (["-c", str(gateway.conf)], ["--control", f"127.0.0.1:{gateway.control_port}"]):
        told = subprocess.run([*command, *where], capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert told.returncode == 0, told.stderr
        assert told.stdout.startswith("master ")
        for pid in gateway.workers():
            assert str(pid) in told.stdout


def rss_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
