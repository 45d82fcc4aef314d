"""Reloads: what comes of them, and what becomes of those that fail."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.load import Load
from tests.fakes.processes import ROOT, Etcd, Gateway, free_port, request, wait_until
from tests.fakes.upstream import Upstream


def ready_generations(gateway: Gateway) -> list[int]:
    """Return the generation of each worker that is ready."""
    generations = gateway.control("/v1/processes")[1]["generations"]
    return [
        worker["generation"]
        for generation in generations
        for worker in generation["workers"]
        if worker["state"] == "ready"
    ]


def outcome(gateway: Gateway) -> dict[str, object]:
    decoded: dict[str, object] = json.loads((gateway.directory / "run" / "reload.json").read_text())
    return decoded


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


def test_all_at_once_under_load_fails_no_request(gateway: Gateway) -> None:
    before = gateway.workers()
    with Load(gateway) as load:
        gateway.write_conf(reload={"mode": "all", "grace": 0.5})
        done = gateway.command("-s", "reload")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: len(gateway.workers()) == 2 and not gateway.workers() & before, "the new generation alone")
    assert load.failures == []


def test_signals_that_come_during_a_reload_are_merged_and_none_is_lost(gateway: Gateway) -> None:
    before = gateway.workers()
    gateway.write_conf(reload={"grace": 1})
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: gateway.log().count("reloading") == 1, "the first reload")
    for number in (signal.SIGTTOU, signal.SIGHUP, signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP, signal.SIGTTIN):
        gateway.signal(number)
        wait_until(lambda: gateway.process is not None and not pending(gateway.process.pid), "it is noted")
    wait_until(lambda: "3 workers serve" in gateway.log(), "all that was asked for", 60)
    assert gateway.log().count("reloading") == 2
    assert ready_generations(gateway) == [3, 3, 3]
    wait_until(lambda: len(gateway.workers()) == 3 and not gateway.workers() & before, "the others have ended")


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
def test_a_stop_in_the_middle_of_a_reload_leaves_nobody_behind(gateway: Gateway, number: signal.Signals) -> None:
    before = gateway.workers()
    gateway.write_conf(reload={"grace": 30})
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: "of generation 2 is ready" in gateway.log(), "a canary")
    everyone = gateway.workers()
    assert before < everyone
    assert gateway.stop(number) == 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everyone), "all have ended")


def pending(pid: int) -> bool:
    """Tell whether a signal has not reached a process yet."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("ShdPnd"))
    return int(line.split()[1], 16) != 0


def missing_certificate(directory: Path) -> dict[str, object]:
    return {"etcd": {"host": ["https://127.0.0.1:1"], "tls": {"cert": str(directory / "none.pem")}}}


def missing_authorities(directory: Path) -> dict[str, object]:
    return {"ssl": {"ssl_trusted_certificate": str(directory / "none.pem")}}


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (missing_certificate, ["etcd.tls.cert", "none.pem", "No such file"]),
        (missing_authorities, ["ssl.ssl_trusted_certificate", "none.pem", "No such file"]),
        (lambda directory: {"error_log": str(directory / "none" / "error.log")}, ["error_log", "none/error.log"]),
        (lambda directory: {"access_log": str(directory / "none" / "a.log")}, ["none/a.log"]),
        (lambda directory: {"body_temp": 1}, ["body_temp"]),
    ],
)
def test_what_workers_could_not_live_with_is_found_before_any_is_forked(
    gateway: Gateway, change: Callable[[Path], dict[str, object]], reasons: list[str]
) -> None:
    before = gateway.workers()
    gateway.write_conf(**change(gateway.directory))
    done = gateway.command("-s", "reload")
    assert done.returncode == 1
    assert all(reason in done.stderr for reason in reasons), done.stderr
    assert gateway.get("/x")[0] == 200
    assert gateway.workers() == before


def test_a_port_in_use_is_named(gateway: Gateway) -> None:
    before = gateway.workers()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        gateway.write_conf(listen=[f"127.0.0.1:{gateway.port}", taken])
        done = gateway.command("-s", "reload")
        assert done.returncode == 1
        assert f"cannot bind {taken}: Address already in use" in done.stderr
    assert gateway.get("/x")[0] == 200
    assert gateway.workers() == before
    assert gateway.command("-s", "reload").returncode == 0  # it is free now


def test_a_file_that_only_root_can_read_is_found(gateway_of_nobody: Gateway) -> None:
    gateway = gateway_of_nobody
    secret = gateway.directory / "authorities.pem"
    secret.touch(0o600)
    gateway.write_conf(ssl={"ssl_trusted_certificate": str(secret)})
    done = gateway.command("-s", "reload")
    assert done.returncode == 1
    assert f"{secret}: Permission denied" in done.stderr
    assert gateway.get("/x")[0] == 404


@pytest.fixture
def copied(tmp_path: Path, etcd: Etcd, upstream: Upstream, tree: Path) -> Iterator[Gateway]:
    """A gateway that runs from a copy of the source."""
    etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
    gateway = Gateway(tmp_path, etcd.url)
    gateway.launch_from(tree)
    gateway.await_ready()
    yield gateway
    gateway.kill()


@pytest.mark.parametrize(
    ("code", "reason"),
    [("import nothing_of_that_name", "ModuleNotFoundError"), ("def broken(:", "SyntaxError")],
)
def test_code_that_cannot_be_imported_is_found_before_any_worker_is_forked(
    copied: Gateway, tree: Path, code: str, reason: str
) -> None:
    before = copied.workers()
    module = tree / "worker/janitor.py"
    lines = module.read_text().count("\n")
    with module.open("a") as source:
        source.write(f"{code}\n")
    done = copied.command("-s", "reload")
    assert done.returncode == 1
    assert reason in done.stderr
    assert f"{module}:{lines + 1}" in done.stderr
    assert copied.get("/x")[0] == 200
    assert copied.workers() == before


DIES_YOUNG = """

_plain_listen = Worker._listen


async def _listen_and_die(self):
    await _plain_listen(self)
    self._loop.call_later(1.0, os._exit, 3)


Worker._listen = _listen_and_die
"""


def test_a_worker_that_dies_after_it_was_ready_brings_the_old_ones_back(copied: Gateway, tree: Path) -> None:
    before = copied.workers()
    with (tree / "worker/process.py").open("a") as source:
        source.write(DIES_YOUNG)
    copied.write_conf(reload={"grace": 3})
    with Load(copied) as load:
        done = copied.command("-s", "reload")
        answered = load.answered
        wait_until(lambda: load.answered > answered + 50, "requests go on")
    assert done.returncode == 1
    assert "slot 0 died: exit code 3" in done.stderr
    assert copied.workers() == before
    # The worker had accepted some when it died: those, and no others.
    assert len(load.failures) <= 4


def test_a_death_when_all_old_workers_have_left_brings_others_like_them(gateway: Gateway) -> None:
    before = gateway.workers()
    gateway.write_conf(reload={"grace": 4})
    with subprocess.Popen(
        [sys.executable, "master.py", "-c", str(gateway.conf), "-s", "reload"], cwd=ROOT, stderr=subprocess.PIPE
    ) as reload:
        wait_until(lambda: not gateway.workers() & before and len(gateway.workers()) == 2, "the new generation alone")
        os.kill(min(gateway.workers()), signal.SIGKILL)
        _, said = reload.communicate(timeout=60)
    assert reload.returncode == 1
    assert b"SIGKILL" in said
    assert outcome(gateway)["ok"] is False
    wait_until(lambda: ready_generations(gateway) == [1, 1], "workers of the old generation")
    assert [gateway.get("/x")[0] for _ in range(20)] == [200] * 20


def test_no_more_generations_live_than_may(tmp_path: Path, etcd: Etcd, upstream: Upstream) -> None:
    etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
    gateway = Gateway(tmp_path, etcd.url, worker_processes=1, max_generations=1, reload={"grace": 0, "drain_wait": 0.1})
    gateway.start()
    try:
        (first,) = gateway.workers()
        with gateway.connection_to(first) as slow:
            slow.sendall(b"GET /slow?s=60 HTTP/1.1\r\nHost: a\r\n\r\n")
            for _ in range(2):
                assert first in gateway.workers()
                done = gateway.command("-s", "reload")
                assert done.returncode == 0, done.stderr
            assert first not in gateway.workers()  # the second has waited for that
        assert f"worker {first} of generation 1 has 5 seconds left" in gateway.log()
        assert gateway.get("/x")[0] == 200
    finally:
        gateway.kill()


def test_a_pid_file_that_names_something_else_is_not_believed(gateway: Gateway) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        pid_file = gateway.directory / "run" / "propylon.pid"
        pid_file.write_text(str(other.pid))
        done = gateway.command("-s", "stop")
        assert done.returncode == 1
        assert "no master is running" in done.stderr
        assert other.poll() is None
        other.communicate(b"\n")
