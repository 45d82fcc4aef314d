"""The control interface of real workers: what is live in each, and when all have it."""

import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import Etcd, Gateway, wait_until


def route(uri: str) -> dict[str, Any]:
    return {"uri": uri, "upstream": {"nodes": {"127.0.0.1:1": 1}}}


def pid_of(gateway: Gateway, slot: int) -> int:
    return next(int(worker["pid"]) for worker in gateway.sync()["workers"] if worker["slot"] == slot)


def test_every_worker_is_shown_whichever_answers(gateway: Gateway, etcd: Etcd) -> None:
    revision = etcd.put("routes/2", route("/two"))
    assert gateway.control(f"/v1/sync/wait?revision={revision}")[0] == 200
    for _ in range(4):
        sync = gateway.sync()
        assert sync["agree"] is True
        assert sync["revision"] == revision
        assert [worker["slot"] for worker in sync["workers"]] == [0, 1]
        assert {worker["pid"] for worker in sync["workers"]} == gateway.workers()
        for worker in sync["workers"]:
            assert worker["state"] == "ready"
            assert worker["generation"] == 1
            assert worker["counts"] == {"routes": 2}
            assert worker["endpoint"] == etcd.url
            assert worker["last_event"].endswith("Z")


def test_wait_names_the_worker_that_has_not(gateway: Gateway, etcd: Etcd) -> None:
    victim = pid_of(gateway, 1)
    os.kill(victim, signal.SIGSTOP)
    try:
        revision = etcd.put("routes/2", route("/two"))
        for _ in range(8):  # whichever socket the connection waits on, the one that runs answers
            status, answer = gateway.control(f"/v1/sync/wait?revision={revision}&timeout=0.1")
            assert status == 504
            assert [(worker["slot"], worker["pid"]) for worker in answer["missing"]] == [(1, victim)]
            assert answer["missing"][0]["revision"] < revision
    finally:
        os.kill(victim, signal.SIGCONT)
    assert gateway.control(f"/v1/sync/wait?revision={revision}&timeout=20") == (200, {"revision": revision})
    assert gateway.sync()["agree"] is True


def test_wait_answers_when_the_revision_arrives(gateway: Gateway, etcd: Etcd) -> None:
    ahead = gateway.sync()["revision"] + 3
    answers: list[tuple[int, Any]] = []
    waiting = threading.Thread(
        target=lambda: answers.append(gateway.control(f"/v1/sync/wait?revision={ahead}&timeout=20"))
    )
    waiting.start()
    revision = 0
    while revision < ahead:
        assert not answers
        revision = etcd.put("routes/2", route(f"/{revision}"))
    waiting.join()
    assert answers == [(200, {"revision": ahead})]


def test_a_rejected_value_is_listed_until_it_heals(gateway: Gateway, etcd: Etcd) -> None:
    bad = etcd.put("routes/1", {**route("/*"), "priority": "high"})
    assert gateway.control(f"/v1/sync/wait?revision={bad}")[0] == 200
    status, errors = gateway.control("/v1/config/errors")
    assert (status, errors["total"]) == (200, 1)
    error = errors["items"][0]
    assert (error["key"], error["path"], error["revision"]) == ("routes/1", "$.priority", bad)
    assert error["serves_last_good"] is True
    shown = gateway.control("/v1/config/routes/1")[1]
    assert (shown["valid"], shown["mod_revision"], shown["value"]["uri"]) == (False, bad, "/*")
    assert {worker["rejected"] for worker in gateway.sync()["workers"]} == {1}
    good = etcd.put("routes/1", route("/new"))
    assert gateway.control(f"/v1/sync/wait?revision={good}")[0] == 200
    assert gateway.control("/v1/config/errors")[1]["items"] == []
    assert gateway.control("/v1/config/routes/1")[1]["valid"] is True


def test_a_directory_is_dumped_without_its_secrets(gateway: Gateway, etcd: Etcd) -> None:
    tls = {"client_cert": "c" * 128, "client_key": f"-----BEGIN hidden-key{'k' * 128}"}
    etcd.put("upstreams/1", {"nodes": {"a.example:80": 1}, "tls": tls})
    revision = etcd.put("routes/2", {**route("/x"), "plugins": {"basic-auth": {"password": "hidden-key"}}})
    assert gateway.control(f"/v1/sync/wait?revision={revision}")[0] == 200
    for path in ("/v1/config/routes", "/v1/config/upstreams", "/v1/routes", "/v1/upstreams", "/v1/upstream/1"):
        status, answer = gateway.control(path)
        assert status == 200
        assert "hidden-key" not in json.dumps(answer)
    dumped = gateway.control("/v1/upstream/1")[1]
    assert dumped["key"] == "/apisix/upstreams/1"
    assert dumped["has_domain"] is True
    assert dumped["value"]["nodes"][0]["host"] == "a.example"


def test_a_worker_that_dies_comes_back_with_what_a_wait_has_told(gateway: Gateway, etcd: Etcd) -> None:
    for at in range(3):
        os.kill(pid_of(gateway, at % 2), signal.SIGKILL)
        revision = etcd.put("routes/2", route(f"/{at}"))
        assert gateway.control(f"/v1/sync/wait?revision={revision}&timeout=20")[0] == 200
        wait_until(lambda: gateway.control("/status/ready")[0] == 200, "both are ready")
        assert min(worker["revision"] for worker in gateway.sync()["workers"]) >= revision


def test_control_survives_a_reload(gateway: Gateway) -> None:
    before = gateway.workers()
    gateway.write_conf(worker_processes=3)
    assert gateway.command("-s", "reload").returncode == 0
    wait_until(lambda: not gateway.workers() & before, "the old generation has ended")
    for _ in range(6):
        workers = gateway.sync()["workers"]
        assert [(worker["slot"], worker["generation"]) for worker in workers] == [(0, 2), (1, 2), (2, 2)]
    gateway.write_conf(worker_processes=1)
    assert gateway.command("-s", "reload").returncode == 0
    wait_until(lambda: len(gateway.workers()) == 1, "one worker alone")
    assert [worker["generation"] for worker in gateway.sync()["workers"]] == [3]


def test_an_answer_under_way_is_finished_by_a_worker_that_drains(gateway: Gateway, etcd: Etcd) -> None:
    before = gateway.workers()
    ahead = gateway.sync()["revision"] + 1
    with socket.create_connection(("127.0.0.1", gateway.control_port), timeout=20) as sock:
        sock.sendall(b"GET /v1/sync/wait?revision=%d&timeout=20 HTTP/1.1\r\nHost: localhost\r\n\r\n" % ahead)
        assert gateway.command("-s", "reload").returncode == 0
        wait_until(lambda: len(gateway.workers() & before) == 1, "one of the old workers still answers")
        etcd.put("routes/2", route("/two"))
        head = sock.recv(65536)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    wait_until(lambda: not gateway.workers() & before, "the old generation has ended")


def test_readiness_is_told_before_there_is_configuration(tmp_path: Path, etcd: Etcd) -> None:
    etcd.kill()
    gateway = Gateway(tmp_path, etcd.url)
    gateway.launch()
    try:
        wait_until(lambda: can_connect(gateway.control_port), "the control address is served")
        assert gateway.control("/status") == (200, {"status": "ok"})
        status, answer = gateway.control("/status/ready")
        assert (status, answer["status"]) == (503, "error")
        assert answer["error"] == "worker id: 0 has not received configuration"
        assert gateway.control("/v1/config/routes")[0] == 503
        etcd.start()
        wait_until(lambda: gateway.control("/status/ready") == (200, {"status": "ok"}), "ready")
        assert gateway.control("/v1/config/routes")[0] == 200
    finally:
        gateway.kill()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_second_gateway_on_the_same_control_address_does_not_start(gateway: Gateway, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    other = Gateway(second, "http://127.0.0.1:1", control={"listen": f"127.0.0.1:{gateway.control_port}"})
    other.write_conf()
    started = other.command()
    assert started.returncode == 1
    assert f"control.listen: cannot bind 127.0.0.1:{gateway.control_port}" in started.stderr


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9090"])
def test_a_name_that_dns_may_have_led_here_is_refused(gateway: Gateway, host: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.control_port), timeout=20) as sock:
        sock.sendall(f"GET /v1/sync HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 403 Forbidden\r\n")
